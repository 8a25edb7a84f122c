"""The highest rate at which the limit is met: probes by steps upwards, then by bisection.

Each probe is a whole run with its own verdict. One that clearly fails is cut short: as soon as so many orders
are late that not even on-time answers for all the rest could keep the target, more of them prove nothing.
"""

import json
import math
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from loadtest.judgement import ExitCode
from loadtest.verdict import LimitVerdict, judge
from orchestrator.errors import OrderSystemError, UsageError

STEP_FACTOR = 1.5

_JUDGED = (
    ExitCode.PASSED,
    ExitCode.LIMIT_BREACHED,
    ExitCode.INVARIANT_BROKEN,
    ExitCode.NOT_PROVEN,
    ExitCode.INVALID_RUN,
)

Json = dict[str, Any]


@dataclass(frozen=True)
class Search:
    """What to search: from `least` to `most` orders a second, until both ends are within `precision` (a share
    of the rate) of each other. Each probe takes `seconds`, and longer when the target needs more orders."""

    least: float
    most: float
    precision: float
    seconds: float
    target: float

    def probe_seconds(self, rate: float) -> int:
        """Whole seconds, long enough for the target to be provable with one order late."""
        return math.ceil(max(self.seconds, orders_to_prove(self.target, late=1) / rate))


@dataclass(frozen=True)
class Probe:
    """One rate and what it showed. Times in ms; `late_share` and `late_bound` are shares, 0 to 1."""

    rate: float
    run_id: str
    passed: bool
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
    def ends_the_search(self) -> str | None:
        """Why no further rate is tried after this one, in words; None when the search may go on."""
        if self.was_interrupted:
            return "interrupted"
        if self.exit_code == ExitCode.INVARIANT_BROKEN:
            return f"the books broke at {self.rate:g}/s, see run {self.run_id}"
        if self.exit_code == ExitCode.INVALID_RUN:
            return f"the run at {self.rate:g}/s was invalid and says nothing, see run {self.run_id}"
        return None


class _SearchEnds(Exception):
    """A probe has shown that no further one is worth making."""


def search(plan: Search, probe: Callable[[float], Probe], tell: Callable[[Probe], None]) -> list[Probe]:
    """Probes rates until the answer is clear, and returns the probes in the order they were made.

    Upwards by steps of a half until a rate fails (or `most` passes), then the middle (by ratio) between the
    best that passed and the least that failed. Ends at once after a probe that `ends_the_search`.
    """
    probes: list[Probe] = []

    def passes(rate: float) -> bool:
        found = probe(rate)
        probes.append(found)
        tell(found)
        if found.ends_the_search is not None:
            raise _SearchEnds
        return found.passed

    with suppress(_SearchEnds):
        _narrow(plan, passes)
    return probes


def _narrow(plan: Search, passes: Callable[[float], bool]) -> None:
    if not passes(plan.least):
        return
    held, failed = plan.least, math.inf
    while held < plan.most and failed == math.inf:
        rate = min(held * STEP_FACTOR, plan.most)
        if passes(rate):
            held = rate
        else:
            failed = rate
    while failed != math.inf and failed / held > 1 + plan.precision:
        middle = math.sqrt(held * failed)
        if passes(middle):
            held = middle
        else:
            failed = middle


def capacity_of(probes: list[Probe]) -> float | None:
    """The highest rate that passed, orders a second; None when none did."""
    return max((probe.rate for probe in probes if probe.passed), default=None)


def orders_to_prove(target: float, late: int) -> int:
    """How many orders it takes to prove the target when `late` of them are late."""
    orders = late + 1
    while (found := judge(orders, late, target)).verdict is not LimitVerdict.MET:
        orders += max(found.more_needed, orders // 8, 1)
    # The steps overshoot; walk back by bisection.
    low, high = late + 1, orders
    while low < high:
        middle = (low + high) // 2
        if judge(middle, late, target).verdict is LimitVerdict.MET:
            high = middle
        else:
            low = middle + 1
    return high


def run_probe(words: list[str], reports: Path, run_id: str, rate: float) -> Probe:
    """Makes one run in a process of its own, which drains and judges also when this one is interrupted.

    Raises UsageError with its words when it was refused, OrderSystemError when it was not judged, and
    KeyboardInterrupt when there was nothing to judge yet.
    """
    command = [sys.executable, "-m", "loadtest", "run", f"--run-id={run_id}", f"--rate={rate:g}", *words]
    # In a process group of its own: it gets Ctrl-C from here, and once.
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        process_group=0,
    )  # fmt: skip
    output, was_interrupted = _output_of(process)
    if process.returncode == ExitCode.WRONG_USAGE:
        raise UsageError(output)
    if process.returncode not in _JUDGED:
        if was_interrupted:
            raise KeyboardInterrupt
        raise OrderSystemError(output or f"the probe ended with {process.returncode}")
    told: Json = json.loads((reports / run_id / "verdict.json").read_text(encoding="utf-8"))
    limit, completion = told["limit"], told["times"]["completion_ms"] or {}
    return Probe(
        rate=rate,
        run_id=run_id,
        passed=told["exit_code"] == 0,
        verdict=told["verdict"],
        orders=limit["orders"],
        late=limit["late"],
        late_share=limit["late"] / max(limit["orders"], 1),
        late_bound=limit["late_bound"],
        p50_ms=completion.get("p50"),
        p99_ms=completion.get("p99"),
        exit_code=told["exit_code"],
        was_interrupted=was_interrupted,
    )


def _output_of(process: "subprocess.Popen[str]") -> tuple[str, bool]:
    """What it printed, its complaints if it had some; and whether somebody pressed Ctrl-C meanwhile."""
    was_interrupted = False
    try:
        try:
            output, complaints = process.communicate()
        except KeyboardInterrupt:
            was_interrupted = True
            process.send_signal(signal.SIGINT)
            output, complaints = process.communicate()
    except BaseException:
        process.kill()
        process.wait()
        raise
    return (complaints or output).strip(), was_interrupted


def write(probes: list[Probe], plan: Search, slo_seconds: float, directory: Path) -> list[Path]:
    """Writes `capacity.json`, `capacity.png` and `capacity.html`; returns their paths. Raises OSError."""
    from loadtest import capacity_plot

    directory.mkdir(parents=True, exist_ok=True)
    told = {
        "capacity": capacity_of(probes),
        "target": plan.target,
        "slo_seconds": slo_seconds,
        "probes": [asdict(probe) for probe in probes],
    }
    files = [directory / f"capacity.{kind}" for kind in ("json", "png", "html")]
    files[0].write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    capacity_plot.png(probes, 1 - plan.target, slo_seconds, files[1])
    capacity_plot.html(probes, 1 - plan.target, slo_seconds, files[2])
    return files
