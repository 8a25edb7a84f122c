"""Search for the capacity: the highest rate at which the SLO target is met.

Each probe of a rate is a complete load test with its own verdict, aborted once it can no longer prove the
target. An aborted probe is a breach only if more orders were late than its whole plan allows. Otherwise it is
repeated with a longer plan, and if that does not decide either, the rate stays undecided.
"""

import json
import math
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from loadtest.generator.api_client import ApiClient
from loadtest.verdict.slo import allowed_share, orders_needed
from orchestrator.errors import ExitCode, OrderSystemError, ServiceUnavailable, UsageError

STEP_FACTOR = 1.5

LATE_ALLOWANCE = 1
RETRY_LATE_ALLOWANCE = 4
"""Late orders that the plan of a probe allows for. A rate with a fifth of the allowed late share has more
than one late order in a quarter of the probes, and more than four in one of thirty."""

RECOVERY_SECONDS = 15.0
"""Pause after an invalid probe, in which an overloaded machine finishes its orders."""

HEALTHY_SECONDS = 120.0
HEALTH_RETRY_SECONDS = 1.0

_WITH_VERDICT = (
    ExitCode.PASSED,
    ExitCode.LIMIT_BREACHED,
    ExitCode.INVARIANT_BROKEN,
    ExitCode.NOT_PROVEN,
    ExitCode.INVALID_RUN,
)

Json = dict[str, Any]


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

    def probe_seconds(self, rate: float, late: int) -> int:
        """Return whole seconds, enough to prove the target with `late` late orders."""
        return math.ceil(max(self.seconds, orders_needed(late, self.target) / rate))


class Finding(StrEnum):
    HELD = "held"
    BREACHED = "breached"
    UNDECIDED = "undecided"


@dataclass(frozen=True)
class Probe:
    """Result at one rate. Times in ms; `late_share` and `late_bound` are shares, 0 to 1."""

    rate: float
    run_id: str
    finding: Finding
    verdict: str
    orders: int
    late: int
    late_share: float
    late_bound: float
    p50_ms: float | None
    p99_ms: float | None
    exit_code: int = 0
    was_interrupted: bool = False

    @property
    def is_invalid(self) -> bool:
        return self.exit_code == ExitCode.INVALID_RUN and not self.was_interrupted

    @property
    def stop_reason(self) -> str | None:
        """Why the search stops after this probe; None when it may continue."""
        if self.was_interrupted:
            return "interrupted"
        if self.exit_code == ExitCode.INVARIANT_BROKEN:
            return f"invariant broken at {self.rate:g}/s, see run {self.run_id}"
        if self.exit_code == ExitCode.INVALID_RUN:
            return f"the run at {self.rate:g}/s was invalid, see run {self.run_id}"
        return None


class _SearchStopped(Exception):
    """The last probe has a `stop_reason`."""


def run_search(
    plan: SearchPlan,
    name: str,
    options: list[str],
    reports: Path,
    api_url: str,
    on_probe: Callable[[Probe], None],
) -> tuple[list[Probe], str | None]:
    """Search with load tests as probes; return them and why the search stopped early (None: it did not).

    `options` are those of each load test. Raises OrderSystemError when the first probe has no verdict.
    """
    probes: list[Probe] = []

    def probe(rate: float, late: int) -> Probe:
        if probes:
            wait_until_healthy(api_url)
        duration = f"--duration={plan.probe_seconds(rate, late)}s"
        run_id = f"{name}-{len(probes) + 1}"
        result = run_probe([*options, duration, "--abort-on-breach"], reports, run_id, rate)
        probes.append(result)
        on_probe(result)
        return result

    try:
        search(plan, probe, lambda: time.sleep(RECOVERY_SECONDS))
    except KeyboardInterrupt:
        return probes, "interrupted"
    except OrderSystemError as error:
        if not probes:
            raise
        return probes, f"the next probe had no verdict: {error}"
    return probes, probes[-1].stop_reason


def search(plan: SearchPlan, probe: Callable[[float, int], Probe], recover: Callable[[], None]) -> None:
    """Probe rates until the capacity is known.

    Rates rise by half until one is not held (or `max_rate` is), then bisection by ratio follows. `probe` gets
    the rate and the number of late orders to allow for. An undecided probe is repeated once with a larger
    allowance, an invalid one after `recover`. Stops after a probe with a `stop_reason`.
    """

    def is_held(rate: float) -> bool:
        result = probe(rate, LATE_ALLOWANCE)
        if result.is_invalid:
            recover()
            result = probe(rate, LATE_ALLOWANCE)
        if result.stop_reason is None and result.finding is Finding.UNDECIDED:
            result = probe(rate, RETRY_LATE_ALLOWANCE)
        if result.stop_reason is not None:
            raise _SearchStopped
        return result.finding is Finding.HELD

    with suppress(_SearchStopped):
        _bisect(plan, is_held)


def _bisect(plan: SearchPlan, is_held: Callable[[float], bool]) -> None:
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


def capacity_of(probes: list[Probe]) -> float | None:
    """Return the highest rate that was held, in orders per second; None when none was."""
    return max((probe.rate for probe in probes if probe.finding is Finding.HELD), default=None)


def exit_code_of(probes: list[Probe], stop_reason: str | None) -> ExitCode:
    """Return the exit code of a search, from the result of `run_search`."""
    last = probes[-1] if probes else None
    if last is None or last.was_interrupted or stop_reason != last.stop_reason:
        # Stopped before or during a probe, so the capacity is not known.
        return ExitCode.NOT_PROVEN
    if last.stop_reason is not None:
        return ExitCode(last.exit_code)
    if capacity_of(probes) is not None:
        return ExitCode.PASSED
    return ExitCode.LIMIT_BREACHED if last.finding is Finding.BREACHED else ExitCode.NOT_PROVEN


def capacity_text(probes: list[Probe], min_rate: float) -> str:
    """Return one line: the rate held, the rate breached, and the undecided rates between them."""
    held = capacity_of(probes)
    breached = min((probe.rate for probe in probes if probe.finding is Finding.BREACHED), default=None)
    decided = {probe.rate for probe in probes if probe.finding is not Finding.UNDECIDED}
    rates = {probe.rate for probe in probes} - decided
    undecided = sorted(rate for rate in rates if (held or 0) < rate < (breached or math.inf))
    if held is not None:
        text = f"{held:.3g} orders/s"
    elif undecided:
        text = "unknown"
    else:
        text = f"below {min_rate:g} orders/s"
    if breached is not None and held is not None:
        text += f", breached at {breached:.3g}"
    if undecided:
        text += f", undecided at {', '.join(f'{rate:.3g}' for rate in undecided)}"
    return text


def run_probe(options: list[str], reports: Path, run_id: str, rate: float) -> Probe:
    """Run one load test in a process of its own. On Ctrl-C it drains, and its verdict is still used.

    Raises UsageError when the run was refused, OrderSystemError when it ended without a verdict, and
    KeyboardInterrupt when it was interrupted before its first order.
    """
    command = [sys.executable, "-m", "loadtest", "run", f"--run-id={run_id}", f"--rate={rate:g}", *options]
    # In its own process group, so that Ctrl-C reaches the run once, from here.
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        process_group=0,
    )  # fmt: skip
    output, was_interrupted = _output_of(process)
    if process.returncode == ExitCode.WRONG_USAGE:
        raise UsageError(output)
    if process.returncode not in _WITH_VERDICT:
        if was_interrupted:
            raise KeyboardInterrupt
        raise OrderSystemError(output or f"the probe ended with exit code {process.returncode}")
    report: Json = json.loads((reports / run_id / "verdict.json").read_text(encoding="utf-8"))
    limit, completion = report["limit"], report["times"]["completion_ms"] or {}
    return Probe(
        rate=rate,
        run_id=run_id,
        finding=finding_of(report),
        verdict=report["verdict"],
        orders=limit["orders"],
        late=limit["late"],
        late_share=limit["late"] / max(limit["orders"], 1),
        late_bound=limit["late_bound"],
        p50_ms=completion.get("p50"),
        p99_ms=completion.get("p99"),
        exit_code=report["exit_code"],
        was_interrupted=was_interrupted,
    )


def finding_of(report: Json) -> Finding:
    """Return what a verdict shows about its rate.

    An aborted run with a missed target may have been bad luck: it is a breach only when more orders were late
    than its whole plan allows.
    """
    if report["exit_code"] == ExitCode.PASSED:
        return Finding.HELD
    limit, run = report["limit"], report["run"]
    planned = max(run["planned"], limit["orders"])
    if report["exit_code"] == ExitCode.LIMIT_BREACHED and (
        run["stopped_after_seconds"] is None or limit["late"] > allowed_share(limit["target"]) * planned
    ):
        return Finding.BREACHED
    return Finding.UNDECIDED


def wait_until_healthy(api_url: str) -> None:
    """Wait until the system is healthy, at most HEALTHY_SECONDS.

    Returns in any case: a load test on an unhealthy system fails with a clear message.
    """
    not_after = time.monotonic() + HEALTHY_SECONDS
    api = ApiClient(api_url, max_connections=1)
    try:
        while time.monotonic() < not_after:
            with suppress(ServiceUnavailable):
                if api.get("/health", "health").is_ok:
                    return
            time.sleep(HEALTH_RETRY_SECONDS)
    finally:
        api.close()


def _output_of(process: "subprocess.Popen[str]") -> tuple[str, bool]:
    """Return stderr, or stdout when that is empty, and whether Ctrl-C was pressed."""
    was_interrupted = False
    try:
        try:
            output, errors = process.communicate()
        except KeyboardInterrupt:
            was_interrupted = True
            process.send_signal(signal.SIGINT)
            output, errors = process.communicate()
    except BaseException:
        process.kill()
        process.wait()
        raise
    return (errors or output).strip(), was_interrupted


def write_results(probes: list[Probe], plan: SearchPlan, slo_seconds: float, directory: Path) -> list[Path]:
    """Write `capacity.json` and the chart `capacity.html`; return their paths. Raises OSError."""
    from loadtest.proofs.capacity_chart import capacity_chart

    directory.mkdir(parents=True, exist_ok=True)
    results = {
        "capacity": capacity_of(probes),
        "target": plan.target,
        "slo_seconds": slo_seconds,
        "probes": [asdict(probe) for probe in probes],
    }
    files = [directory / "capacity.json", directory / "capacity.html"]
    files[0].write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    # With plotly.js in the page, so that it works offline.
    capacity_chart(probes, 1 - plan.target, slo_seconds).write_html(files[1], include_plotlyjs=True)
    return files
