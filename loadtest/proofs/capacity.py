"""The highest rate at which the limit is met: probes by steps upwards, then by bisection.

Each probe is a whole run with its own verdict. One that cannot prove the target any more is cut short. It has
not breached the limit by that: unless more orders were late than its whole plan may have, it is made again
with a longer plan, and if that does not decide either, the rate stays undecided.
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
from orchestrator.errors import OrderSystemError, ServiceUnavailable, UsageError
from orchestrator.exit_codes import ExitCode

STEP_FACTOR = 1.5

LATE_AT_FIRST = 1
LATE_AGAIN = 4
"""How many late orders a probe's plan leaves room for: a rate that keeps the target five times over has more
than one of them in a quarter of the probes, and more than four in one of thirty."""

RECOVERY_SECONDS = 15.0
"""After an invalid probe: a machine that was too busy to keep a schedule gets rid of its orders first."""

HEALTHY_SECONDS = 120.0
HEALTH_RETRY_SECONDS = 1.0

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

    def probe_seconds(self, rate: float, late: int) -> int:
        """Whole seconds, long enough for the target to be provable with so many orders late."""
        return math.ceil(max(self.seconds, orders_needed(late, self.target) / rate))


class Finding(StrEnum):
    """What a probe says of its rate."""

    HELD = "held"
    BREACHED = "breached"
    UNDECIDED = "undecided"


@dataclass(frozen=True)
class Probe:
    """One rate and what it showed. Times in ms; `late_share` and `late_bound` are shares, 0 to 1."""

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
    def was_invalid(self) -> bool:
        return self.exit_code == ExitCode.INVALID_RUN and not self.was_interrupted

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


def search(
    plan: Search,
    probe: Callable[[float, int], Probe],
    tell: Callable[[Probe], None],
    recover: Callable[[], None],
) -> list[Probe]:
    """Probes rates until the answer is clear, and returns the probes in the order they were made.

    Upwards by steps of a half until a rate is not held (or `most` is), then the middle (by ratio) between the
    best that was held and the least that was not. `probe` is told the rate and for how many late orders to
    leave room. What is undecided is tried once more with more room, and what was invalid after `recover`.
    Ends at once after a probe that `ends_the_search`.
    """
    probes: list[Probe] = []

    def try_once(rate: float, late: int) -> Probe:
        found = probe(rate, late)
        probes.append(found)
        tell(found)
        return found

    def holds(rate: float) -> bool:
        found = try_once(rate, LATE_AT_FIRST)
        if found.was_invalid:
            recover()
            found = try_once(rate, LATE_AT_FIRST)
        if found.ends_the_search is None and found.finding is Finding.UNDECIDED:
            found = try_once(rate, LATE_AGAIN)
        if found.ends_the_search is not None:
            raise _SearchEnds
        return found.finding is Finding.HELD

    with suppress(_SearchEnds):
        _narrow(plan, holds)
    return probes


def _narrow(plan: Search, holds: Callable[[float], bool]) -> None:
    if not holds(plan.least):
        return
    held, failed = plan.least, math.inf
    while held < plan.most and failed == math.inf:
        rate = min(held * STEP_FACTOR, plan.most)
        if holds(rate):
            held = rate
        else:
            failed = rate
    while failed != math.inf and failed / held > 1 + plan.precision:
        middle = math.sqrt(held * failed)
        if holds(middle):
            held = middle
        else:
            failed = middle


def capacity_of(probes: list[Probe]) -> float | None:
    """The highest rate that was held, orders a second; None when none was."""
    return max((probe.rate for probe in probes if probe.finding is Finding.HELD), default=None)


def in_words(probes: list[Probe], least: float) -> str:
    """What the search has shown: which rate was held, which was not, and what lies undecided between them."""
    held = capacity_of(probes)
    breached = min((probe.rate for probe in probes if probe.finding is Finding.BREACHED), default=None)
    decided = {probe.rate for probe in probes if probe.finding is not Finding.UNDECIDED}
    undecided = sorted(
        {
            probe.rate
            for probe in probes
            if probe.rate not in decided and probe.rate > (held or 0) and probe.rate < (breached or math.inf)
        }
    )
    if held is not None:
        text = f"{held:.3g} orders/s"
    elif undecided:
        text = "unknown"
    else:
        text = f"below {least:g} orders/s"
    if breached is not None and held is not None:
        text += f", breached at {breached:.3g}"
    if undecided:
        text += f", undecided at {', '.join(f'{rate:.3g}' for rate in undecided)}"
    return text


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
        finding=finding_of(told),
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


def finding_of(told: Json) -> Finding:
    """What a verdict says of the rate. A run that was cut short while its share was missed may have had bad
    luck: only more late orders than its whole plan may have are a breach."""
    if told["exit_code"] == ExitCode.PASSED:
        return Finding.HELD
    limit, run = told["limit"], told["run"]
    planned = max(run["planned"], limit["orders"])
    if told["exit_code"] == ExitCode.LIMIT_BREACHED and (
        run["stopped_after_seconds"] is None or limit["late"] > allowed_share(limit["target"]) * planned
    ):
        return Finding.BREACHED
    return Finding.UNDECIDED


def wait_until_healthy(api_url: str) -> None:
    """Returns when the system is healthy, as it may not be just after too much load; or, since the probe says
    it better, when it has not been for too long."""
    give_up = time.monotonic() + HEALTHY_SECONDS
    api = ApiClient(api_url, max_connections=1)
    try:
        while time.monotonic() < give_up:
            with suppress(ServiceUnavailable):
                if api.get("/health", "health").is_ok:
                    return
            time.sleep(HEALTH_RETRY_SECONDS)
    finally:
        api.close()


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
    from loadtest.proofs import capacity_plot

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
