"""`python -m loadtest.proofs.overload`: more orders than the system can carry out, and what becomes of them.

Starts a stack of its own in a temporary directory, on the ports of the settings, and offers it orders at an
even rate. What is too much must be turned away with 429; what is accepted must keep the limit; and when it is
over, a fresh order must be served as if nothing had been. Prints a Markdown report. Exits with 3 when one of
these is not so, or a component took more memory than it may; with 4 when the audit is not clean; with 5 when
nothing was turned away, or the memory was not read throughout, so that nothing is proven; with 6 when the
generator could not hold its rate.
"""

import argparse
import asyncio
import signal
import sys
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import httpx

from loadtest.preflight import commit, machine
from loadtest.proofs.async_load import SAMPLE_ADDRESS, DriveReport, drive, outcomes
from loadtest.proofs.resource_usage import Footprint, can_be_measured
from loadtest.proofs.soak import complain, say, stack_of_its_own
from loadtest.verdict.percentiles import spread
from orchestrator.errors import OrderSystemError, UsageError
from orchestrator.exit_codes import ExitCode
from orchestrator.settings import Settings

RATE = 30.0
SECONDS = 60.0
FAULTS = "assignment"
NORMAL_WITHIN_SECONDS = 5.0
"""How soon after the last order too many a fresh one must be accepted."""

LAG_TOLERANCE_MS = 500.0
DRAIN_SECONDS = 60.0
ASK_AGAIN_SECONDS = 0.25
WAIT_SECONDS = 20.0
REPORT_TIMEOUT_SECONDS = 60.0

MEMORY_LIMITS_MIB = {
    "postgres": 2048,
    "temporal": 2048,
    "order-worker": 512,
    "shipping-worker": 512,
    "api": 512,
    "dashboard": 1024,
    "locust": 1024,
}
"""What each component may take: the limits that docker-compose.yml sets for its services."""

Json = dict[str, Any]


@dataclass(frozen=True)
class Fresh:
    """An order sent when the overload is over: when it was accepted, counted from then, and its outcome."""

    accepted_after_seconds: float
    status: Json


@dataclass(frozen=True)
class Aftermath:
    """What came of an overload. `finished` are the statuses of accepted orders with an outcome."""

    driven: DriveReport
    finished: Mapping[str, Json]
    audit: Json
    fresh: Fresh | None

    @property
    def refusals(self) -> Counter[str]:
        """Orders that were not accepted, by status code or kind of failure."""
        return Counter(_kind(problem) for problem in self.driven.failures.values())

    @property
    def late(self) -> int:
        """Accepted orders without an outcome within the limit."""
        on_time = sum(bool(status["within_limit"]) for status in self.finished.values())
        return len(self.driven.acknowledged) - on_time


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m loadtest.proofs.overload", description=__doc__)
    parser.add_argument("--rate", type=float, default=RATE, help="orders a second")
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--faults", default=FAULTS, help="fault profile")
    options = parser.parse_args()
    # Whoever ends us wants the stack gone too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return overload(Settings.load(), options.rate, options.seconds, options.faults)
    except UsageError as error:
        complain(str(error))
        return ExitCode.WRONG_USAGE
    except OrderSystemError as error:
        complain(str(error))
        return ExitCode.CRASHED


def overload(settings: Settings, rate: float, seconds: float, faults: str) -> int:
    """Runs it and prints the report; returns the exit code. Raises UsageError when it cannot be run."""
    if not can_be_measured():
        raise UsageError("the memory of processes is read from Linux's /proc, which is not here")
    count = round(rate * seconds)
    if count < 1:
        raise UsageError("this is too short for a single order")
    with (
        stack_of_its_own(settings, "overload") as stack,
        Footprint.of(stack) as footprint,
    ):
        aftermath = asyncio.run(strain(stack.settings.api_url, rate, count, faults))
    say(report(aftermath, rate, faults, footprint))
    code, problems = judge(aftermath, footprint)
    for problem in problems:
        complain(problem)
    return code


async def strain(api_url: str, rate: float, count: int, faults: str) -> Aftermath:
    """Offers the orders, then a fresh one, and waits for the outcome of every one that was accepted."""
    run_id = f"overload-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    async with httpx.AsyncClient(base_url=api_url, timeout=REPORT_TIMEOUT_SECONDS, trust_env=False) as http:
        (await http.put("/faults", json={"profile": faults, "seed": 1})).raise_for_status()
        driven = await drive(api_url, run_id=run_id, rate=rate, count=count)
        fresh, finished = await asyncio.gather(
            fresh_order(http, f"{run_id}-fresh"),
            outcomes(api_url, driven.acknowledged, time_budget_seconds=DRAIN_SECONDS),
        )
        audited = await http.get("/audit", params={"run_id": run_id})
        audited.raise_for_status()
    return Aftermath(driven, finished, audited.json(), fresh)


async def fresh_order(http: httpx.AsyncClient, order_id: str) -> Fresh | None:
    """Starts an order, again and again until it is accepted, and waits for its outcome; None when it was not
    accepted in good time."""
    began = time.perf_counter()
    while (after := time.perf_counter() - began) <= NORMAL_WITHIN_SECONDS:
        answer = await http.post(f"/orders/{order_id}/start", json={"initial_address": SAMPLE_ADDRESS})
        if answer.status_code == httpx.codes.OK:
            status = await http.get(f"/orders/{order_id}/status", params={"wait": WAIT_SECONDS})
            status.raise_for_status()
            return Fresh(after, status.json())
        await asyncio.sleep(ASK_AGAIN_SECONDS)
    return None


def judge(aftermath: Aftermath, footprint: Footprint) -> tuple[ExitCode, list[str]]:
    """The exit code, and what is not as promised, a sentence each."""
    broken = [
        f"invariant {violation['invariant']}, {violation['order_id']}: {violation['finding']}"
        for violation in aftermath.audit["violations"]
    ]
    if broken or not aftermath.audit["clean"]:
        return ExitCode.INVARIANT_BROKEN, broken or ["the audit is not clean"]
    lag = spread(aftermath.driven.lag_ms)
    if lag is not None and lag["p99"] > LAG_TOLERANCE_MS:
        return ExitCode.INVALID_RUN, [f"the generator was late itself: p99 {lag['p99']:.0f} ms"]
    breached = _breaches(aftermath, footprint)
    if breached:
        return ExitCode.LIMIT_BREACHED, breached
    unproven = footprint.gaps()
    if not aftermath.refusals["429"]:
        unproven.append("nothing was turned away: this was no overload")
    if unproven:
        return ExitCode.NOT_PROVEN, unproven
    return ExitCode.PASSED, []


def _breaches(aftermath: Aftermath, footprint: Footprint) -> list[str]:
    found = [f"{name} has not lived through it" for name in sorted(footprint.lost)]
    if aftermath.late:
        found.append(f"{aftermath.late} accepted orders were late")
    found += [
        f"{count} starts were answered {kind} instead of being accepted or shed"
        for kind, count in aftermath.refusals.items()
        if kind != "429"
    ]
    fresh = aftermath.fresh
    if fresh is None:
        found.append(f"no fresh order was accepted within {NORMAL_WITHIN_SECONDS:g} s")
    elif fresh.status["status"] != "completed" or not fresh.status["within_limit"]:
        found.append(f"the fresh order is {fresh.status['status']} after {fresh.status['completion_ms']} ms")
    found += [
        f"{component.name} took {footprint.peak_mib(component.name):.0f} MiB, and may take {limit}"
        for component in footprint.components
        if footprint.peak_mib(component.name) > (limit := memory_limit_mib(component.name))
    ]
    return found


def memory_limit_mib(component: str) -> int:
    """Raises KeyError for a component without a limit."""
    return MEMORY_LIMITS_MIB[component.rstrip("-0123456789")]


def report(aftermath: Aftermath, rate: float, faults: str, footprint: Footprint) -> str:
    """Markdown."""
    driven, fresh, around = aftermath.driven, aftermath.fresh, machine()
    shed = aftermath.refusals["429"]
    times = sorted(status["completion_ms"] or 0 for status in aftermath.finished.values())
    slowest = f"{times[-1] / 1000:.1f} s" if times else "-"
    lag = spread(driven.lag_ms) or {"p99": 0.0}
    again = "no" if fresh is None else f"{fresh.accepted_after_seconds:.1f} s"
    done = "-" if fresh is None else f"{fresh.status['status']} in {fresh.status['completion_ms']} ms"
    violations = len(aftermath.audit["violations"])
    lines = [
        f"{driven.offered} starts at {rate:g}/s under the `{faults}` faults, commit {commit() or 'unknown'}, "
        f"{around['cpus']} cores, {around['memory_mb']} MB, {around['system']}, Python {around['python']}.",
        "",
        "| offered | accepted | shed (429) | otherwise refused | late | slowest | audit "
        "| generator lag p99 | fresh order accepted after | fresh order |",
        "|---|---|---|---|---|---|---|---|---|---|",
        f"| {driven.offered} | {len(driven.acknowledged)} | {shed} | {len(driven.failures) - shed} | "
        f"{aftermath.late} | {slowest} | {'clean' if not violations else f'{violations} violations'} | "
        f"{lag['p99']:.0f} ms | {again} | {done} |",
        "",
        "| memory in MiB | peak | limit |",
        "|---|---|---|",
    ]
    lines += [
        f"| {name} | {footprint.peak_mib(name):.0f} | {memory_limit_mib(name)} |"
        for name in (component.name for component in footprint.components)
    ]
    return "\n".join(lines)


def _kind(problem: str) -> str:
    """The status code of a refusal, or the name of the error when there was no answer."""
    return problem.split(" ", 1)[0].split("(", 1)[0]


if __name__ == "__main__":
    sys.exit(main())
