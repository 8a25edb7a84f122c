"""Search for the capacity: the highest rate at which a load test passes.

Each probe of a rate is a complete load test with its own verdict, aborted once the target is out of reach.
"""

import json
import math
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from loadtest.verdict.slo import orders_needed
from orchestrator import output_file
from orchestrator.errors import ExitCode, OrderSystemError, UsageError
from orchestrator.rest_client import Json

STEP_FACTOR = 1.5

LATE_ALLOWANCE = 1
"""Late orders with which a probe can still prove the target."""

RECOVERY_SECONDS = 5.0
"""Pause between two probes, for a machine that was overloaded."""

_WITH_VERDICT = (
    ExitCode.PASSED,
    ExitCode.LIMIT_BREACHED,
    ExitCode.INVARIANT_BROKEN,
    ExitCode.NOT_PROVEN,
    ExitCode.INVALID_RUN,
)


@dataclass(frozen=True)
class SearchPlan:
    """Search from `min_rate` to `max_rate`, in orders per second.

    The search ends when its bounds are within `precision`, a share of the rate. A probe takes at least
    `seconds`.
    """

    min_rate: float
    max_rate: float
    precision: float
    seconds: float
    target: float

    def probe_seconds(self, rate: float) -> int:
        return math.ceil(max(self.seconds, orders_needed(LATE_ALLOWANCE, self.target) / rate))


@dataclass(frozen=True)
class Probe:
    """Result at one rate. `late_bound` is a share, 0 to 1; times in ms."""

    rate: float
    run_id: str
    verdict: str
    exit_code: int
    orders: int
    late: int
    late_bound: float
    p50_ms: float | None
    p99_ms: float | None
    was_interrupted: bool = False

    @property
    def is_held(self) -> bool:
        return self.exit_code == ExitCode.PASSED


@dataclass(frozen=True)
class SearchResult:
    """`stop_reason` says why the search stopped before the capacity was known; None if it did not."""

    probes: list[Probe]
    exit_code: ExitCode
    stop_reason: str | None = None

    @property
    def capacity(self) -> float | None:
        """The highest rate that was held, in orders per second; None when none was."""
        return max((probe.rate for probe in self.probes if probe.is_held), default=None)

    def __str__(self) -> str:
        if self.capacity is None:
            return f"below {self.probes[0].rate:g} orders/s"
        failed = min((probe.rate for probe in self.probes if not probe.is_held), default=None)
        return f"{self.capacity:.3g} orders/s" + (f", not held: {failed:.3g}" if failed else "")


def run_search(
    plan: SearchPlan, probe: Callable[[int, float], Probe], on_probe: Callable[[Probe], None]
) -> SearchResult:
    """Search with `probe`, which gets the number of the probe and its rate.

    Raises OrderSystemError when the first probe has no verdict.
    """
    probes: list[Probe] = []

    def is_held(rate: float) -> bool:
        if probes:
            time.sleep(RECOVERY_SECONDS)
        result = probe(len(probes) + 1, rate)
        probes.append(result)
        on_probe(result)
        if result.was_interrupted:
            raise KeyboardInterrupt
        if result.exit_code in (ExitCode.INVARIANT_BROKEN, ExitCode.INVALID_RUN):
            raise _SearchStopped(f"{result.verdict} at {rate:g}/s, see run {result.run_id}")
        return result.is_held

    try:
        search(plan, is_held)
    except KeyboardInterrupt:
        return SearchResult(probes, ExitCode.NOT_PROVEN, "interrupted")
    except _SearchStopped as stop:
        return SearchResult(probes, ExitCode(probes[-1].exit_code), str(stop))
    except OrderSystemError as error:
        if not probes:
            raise
        return SearchResult(probes, ExitCode.NOT_PROVEN, f"the next probe had no verdict: {error}")
    # When the lowest rate is held, the capacity is known.
    return SearchResult(probes, ExitCode(probes[0].exit_code))


class _SearchStopped(Exception):
    """The last probe does not show whether its rate is held."""


def search(plan: SearchPlan, is_held: Callable[[float], bool]) -> None:
    """Raise the rate by half until one is not held (or `max_rate` is), then bisect by ratio."""
    if not is_held(plan.min_rate):
        return
    held, failed = plan.min_rate, math.inf
    while held < plan.max_rate and failed == math.inf:
        rate = min(held * STEP_FACTOR, plan.max_rate)
        if is_held(rate):
            held = rate
        else:
            failed = rate
    while failed != math.inf and failed / held > 1 + plan.precision:
        middle = math.sqrt(held * failed)
        if is_held(middle):
            held = middle
        else:
            failed = middle


def run_probe(options: list[str], reports: Path, run_id: str, rate: float) -> Probe:
    """Run one load test in a separate process. On Ctrl-C it drains, and its verdict is still used.

    Raises UsageError when the run was refused, OrderSystemError when it ended without a verdict, and
    KeyboardInterrupt when it was interrupted before its first order.
    """
    command = [sys.executable, "-m", "loadtest", "run", f"--run-id={run_id}", f"--rate={rate:g}", *options]
    # In its own process group, so that Ctrl-C reaches the run once, from here.
    process = subprocess.Popen(
        [*command, "--abort-on-breach"],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        process_group=0,
    )  # fmt: skip
    was_interrupted = False
    try:
        _, errors = process.communicate()
    except KeyboardInterrupt:
        was_interrupted = True
        process.send_signal(signal.SIGINT)
        errors = _wait_for_verdict(process)
    if process.returncode == ExitCode.WRONG_USAGE:
        raise UsageError(errors.strip())
    if process.returncode not in _WITH_VERDICT:
        if was_interrupted:
            raise KeyboardInterrupt
        raise OrderSystemError(errors.strip() or f"the probe ended with exit code {process.returncode}")
    report: Json = json.loads((reports / run_id / "verdict.json").read_text(encoding="utf-8"))
    limit, completion = report["limit"], report["times"]["completion_ms"] or {}
    return Probe(
        rate=rate,
        run_id=run_id,
        verdict=report["verdict"],
        exit_code=report["exit_code"],
        orders=limit["orders"],
        late=limit["late"],
        late_bound=limit["late_bound"],
        p50_ms=completion.get("p50"),
        p99_ms=completion.get("p99"),
        was_interrupted=was_interrupted,
    )


def _wait_for_verdict(process: subprocess.Popen[str]) -> str:
    """Return the errors of an interrupted probe. Another Ctrl-C ends it, after it has restored the faults."""
    try:
        return process.communicate()[1]
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        process.send_signal(signal.SIGINT)
        return process.communicate()[1]


def write_results(result: SearchResult, plan: SearchPlan, slo_seconds: float, directory: Path) -> list[Path]:
    """Write `capacity.json` and the chart `capacity.html`; return their paths. Raises OSError."""
    from loadtest.proofs.capacity_chart import capacity_chart

    directory.mkdir(parents=True, exist_ok=True)
    results = {
        "capacity": result.capacity,
        "target": plan.target,
        "slo_seconds": slo_seconds,
        "probes": [asdict(probe) for probe in result.probes],
    }
    files = [directory / "capacity.json", directory / "capacity.html"]
    output_file.write(files[0], json.dumps(results, indent=2) + "\n")
    # The page contains plotly.js, so that it works offline.
    chart = capacity_chart(result.probes, 1 - plan.target, slo_seconds)
    output_file.write(files[1], chart.to_html(include_plotlyjs=True))
    return files
