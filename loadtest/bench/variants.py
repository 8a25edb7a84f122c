"""`python -m loadtest.bench.variants [--faults PROFILE] DIRECTORY ...`: compare workers of several checkouts.

Replaces the workers of a running stack by those of this checkout and of each DIRECTORY, in turn and in several
rounds, under the same load. Prints medians and the ratio to this checkout. To compare a change, make it in a
worktree (`git worktree add ../variant`).
"""

import argparse
import asyncio
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from loadtest.bench.harness import Bench
from loadtest.bench.load import LoadResult, run_load
from loadtest.bench.single_orders import cpu_ms
from loadtest.preflight import ROOT
from loadtest.proofs.capacity import wait_until_healthy
from loadtest.proofs.proof import print_report, table
from orchestrator.embedded import Stack
from orchestrator.embedded.layout import stack_environment
from orchestrator.settings import Settings
from orchestrator.temporal_client import connect

RATE = 8.0
SECONDS = 20.0
ROUNDS = 3


async def compare(settings: Settings, stack: Stack, checkouts: list[Path], faults: str) -> None:
    """Print the table. The stack's own workers are stopped for the time of the comparison."""
    bench = Bench(settings, stack, await connect(settings))
    workers = [component.name for component in stack.components() if "-worker-" in component.name]
    results: dict[Path, list[tuple[float, LoadResult]]] = {checkout: [] for checkout in checkouts}
    for name in workers:
        stack.stop(name)
    try:
        for _ in range(ROUNDS):
            for checkout in checkouts:
                with _workers_of(checkout, settings) as pids:
                    results[checkout].append(await _measure(bench, pids, faults))
    finally:
        for name in workers:
            stack.start(name)
    base = statistics.median(cpu for cpu, _ in results[checkouts[0]])
    rows = []
    for checkout, rounds in results.items():
        cpu = statistics.median(cpu for cpu, _ in rounds)
        p50 = statistics.median(result.p50_ms for _, result in rounds) / 1000
        p99 = statistics.median(result.p99_ms for _, result in rounds) / 1000
        late = sum(result.late for _, result in rounds)
        rows.append(
            (checkout.name, f"{cpu:.0f} ms", f"{cpu / base:.2f}", f"{p50:.2f} s", f"{p99:.2f} s", late)
        )
    header = ("checkout", "CPU per order", "ratio", "p50", "p99", "late")
    print_report([f"{RATE:g}/s, {SECONDS:g} s, {ROUNDS} rounds, faults {faults}", "", *table(header, *rows)])


async def _measure(bench: Bench, worker_pids: list[int], faults: str) -> tuple[float, LoadResult]:
    """Return CPU ms per order of server, workers and PostgreSQL, and the result of the load test."""
    # The API is healthy once the started workers poll their task queues.
    await asyncio.to_thread(wait_until_healthy, bench.api_url)
    pids = [*bench.pids("temporal", "postgres"), *worker_pids]
    before = cpu_ms(pids)
    result = await run_load(bench, RATE, SECONDS, faults)
    return (cpu_ms(pids) - before) / result.orders, result


@contextmanager
def _workers_of(checkout: Path, settings: Settings) -> Iterator[list[int]]:
    """Run the stack's number of workers from a checkout; yields their process ids."""
    kinds = ["order"] * settings.order_workers + ["shipping"] * settings.shipping_workers
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "orchestrator", "worker", kind],
            cwd=checkout, env=stack_environment(settings), stdout=subprocess.DEVNULL,
        )
        for kind in kinds
    ]  # fmt: skip
    try:
        yield [process.pid for process in processes]
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m loadtest.bench.variants", description=__doc__)
    parser.add_argument("directories", nargs="+", type=Path, metavar="DIRECTORY", help="another checkout")
    parser.add_argument("--faults", default="assignment")
    options = parser.parse_args()
    if missing := [str(path) for path in options.directories if not (path / "orchestrator").is_dir()]:
        parser.error(f"not a checkout: {', '.join(missing)}")
    settings = Settings.load()
    stack = Stack(settings)
    checkouts = [ROOT, *(path.resolve() for path in options.directories)]
    asyncio.run(compare(stack.running_settings(), stack, checkouts, options.faults))


if __name__ == "__main__":
    main()
