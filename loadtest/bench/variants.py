"""What the alternatives cost: `python -m loadtest.bench.variants [--faults PROFILE] [NAME ...]`.

Replaces the workers of a running stack by ones that differ in a single respect, gives each variant the
same load in turn, several rounds over, and prints medians and the ratio to the product as it is. The
figures of docs/decisions/ come from here.
"""

import argparse
import asyncio
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import uvloop
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner, SandboxRestrictions

from loadtest.bench.cpu import CpuMeter, spent_ms
from loadtest.bench.measures import Bench, under_faults
from orchestrator.activities import step_runner
from orchestrator.embedded import Stack
from orchestrator.settings import Settings
from orchestrator.temporal_client import connect
from orchestrator.worker import main as worker
from orchestrator.workflows import order_steps, shipping

RATE = 8.0
SECONDS = 20.0
ROUNDS = 3


def _as_it_is() -> None: ...


def _in_the_sandbox() -> None:
    worker.WORKFLOW_RUNNER = SandboxedWorkflowRunner(
        restrictions=SandboxRestrictions.default.with_passthrough_modules("orchestrator", "db", "structlog")
    )


def _without_pass_through() -> None:
    worker.WORKFLOW_RUNNER = SandboxedWorkflowRunner()


def _with_uvloop() -> None:
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())


def _time_budget(order_seconds: float, shipping_seconds: float) -> Callable[[], None]:
    def change() -> None:
        order_steps.TIME_BUDGET = timedelta(seconds=order_seconds)
        shipping.TIME_BUDGET = timedelta(seconds=shipping_seconds)

    return change


def _attempt_timeout(milliseconds: int) -> Callable[[], None]:
    def change() -> None:
        # Imported from the budget: this replaces the name where the attempts read it.
        vars(step_runner)["ATTEMPT_TIMEOUT"] = timedelta(milliseconds=milliseconds)

    return change


VARIANTS: dict[str, Callable[[], None]] = {
    "as-it-is": _as_it_is,
    "sandbox": _in_the_sandbox,
    "sandbox-no-pass-through": _without_pass_through,
    "uvloop": _with_uvloop,
    "patience-0": _time_budget(0.0, 0.0),
    "patience-0.4": _time_budget(0.4, 0.4),
    "patience-2": _time_budget(2.0, 2.0),
    "attempt-100ms": _attempt_timeout(100),
    "attempt-500ms": _attempt_timeout(500),
    "attempt-1000ms": _attempt_timeout(1_000),
}


@dataclass(frozen=True)
class Reading:
    """One round of one variant: CPU per order of server, workers and PostgreSQL; completion times."""

    cpu_ms: float
    p50_ms: int
    p99_ms: int
    late: int


async def compare(settings: Settings, stack: Stack, names: list[str], faults: str) -> None:
    """Prints the table. The stack's own workers are stopped meanwhile, and started again afterwards."""
    bench = Bench(settings, stack, await connect(settings))
    own = [component.name for component in stack.components() if "-worker-" in component.name]
    readings: dict[str, list[Reading]] = {name: [] for name in names}
    for name in own:
        stack.stop(name)
    try:
        for _ in range(ROUNDS):
            for name in names:
                with _workers(settings, name) as pids:
                    readings[name].append(await _read(bench, pids, faults))
    finally:
        for name in own:
            stack.start(name)
    base = statistics.median(reading.cpu_ms for reading in readings[names[0]])
    print(f"{RATE:g}/s, {SECONDS:g} s, {ROUNDS} rounds, faults {faults}\n")  # noqa: T201
    print("| variant | CPU per order | ratio | p50 | p99 | late |\n|---|---|---|---|---|---|")  # noqa: T201
    for name, rounds in readings.items():
        cpu = statistics.median(reading.cpu_ms for reading in rounds)
        p50 = statistics.median(reading.p50_ms for reading in rounds) / 1000
        p99 = statistics.median(reading.p99_ms for reading in rounds) / 1000
        late = sum(reading.late for reading in rounds)
        print(f"| {name} | {cpu:.0f} ms | {cpu / base:.2f} | {p50:.2f} s | {p99:.2f} s | {late} |")  # noqa: T201


async def _read(bench: Bench, worker_pids: dict[str, int], faults: str) -> Reading:
    meter = CpuMeter(bench.pids("temporal", "postgres") | worker_pids)
    before = meter.read_ms()
    figures = await under_faults(bench, RATE, SECONDS, faults)
    cpu_ms = spent_ms(before, meter.read_ms()) / figures.orders
    return Reading(cpu_ms, figures.p50_ms, figures.p99_ms, figures.late)


@contextmanager
def _workers(settings: Settings, variant: str) -> Iterator[dict[str, int]]:
    kinds = ["order"] * settings.order_workers + ["shipping"] * settings.shipping_workers
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "loadtest.bench.variants", "--worker", kind, variant],
            stdout=subprocess.DEVNULL,
        )
        for kind in kinds
    ]
    try:
        yield {f"variant-{number}": process.pid for number, process in enumerate(processes)}
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of: {', '.join(VARIANTS)}")
    parser.add_argument("--faults", default="assignment")
    parser.add_argument("--worker", choices=("order", "shipping"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if unknown := [name for name in options.names if name not in VARIANTS]:
        parser.error(f"unknown variant {unknown[0]}")
    settings = Settings.load()
    if options.worker:
        VARIANTS[options.names[0]]()
        asyncio.run(worker.run(settings, options.worker))
        return
    names = ["as-it-is", *(name for name in options.names or VARIANTS if name != "as-it-is")]
    asyncio.run(compare(settings, Stack(settings), names, options.faults))


if __name__ == "__main__":
    main()
