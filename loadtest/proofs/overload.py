"""`python -m loadtest.proofs.overload`: a load test above the capacity of the system, then normal load.

Starts its own stack in a temporary directory, on the ports of the settings, and prints a Markdown report.
Excess starts must be rejected with 429, accepted orders must keep the limit, and after the overload every
order must be accepted again. Exits with 3 when one of these fails, or a component ended or used too much
memory; with 5 when no start was rejected or memory samples are missing; otherwise with the exit code of the
load test.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from loadtest.proofs import proof
from loadtest.proofs.memory_usage import MemoryUsage
from orchestrator.errors import ExitCode, UsageError
from orchestrator.rest_client import Json
from orchestrator.settings import Settings

RATE = 30.0
SECONDS = 60.0
FAULTS = "assignment"
NORMAL_RATE = 1.0
NORMAL_SECONDS = 15.0
RECOVERY_SECONDS = 5.0
"""Orders that are sent this long after the overload must be accepted."""

MEMORY_LIMITS_MIB = {
    "postgres": 2048,
    "temporal": 2048,
    "order-worker": 512,
    "shipping-worker": 512,
    "api": 512,
    "dashboard": 1024,
    "locust": 1024,
}
"""The memory limits of the services in docker-compose.yml."""


@dataclass(frozen=True)
class Recovery:
    """Orders sent after the overload; `sent` and `not_accepted` count those from RECOVERY_SECONDS on.

    `first_accepted_seconds` counts from the end of the overload; None when no order was accepted.
    """

    sent: int
    not_accepted: int
    first_accepted_seconds: float | None


def overload(settings: Settings, rate: float, seconds: float, faults: str) -> ExitCode:
    """Run the proof and print its report. Raises UsageError when it cannot be run."""
    if rate * seconds < 1:
        raise UsageError("The run is too short for a single order at this rate.")
    with proof.own_stack(settings, "overload") as stack, MemoryUsage.of(stack) as usage:
        run = proof.run_load_test(
            stack.settings, "overload", "--scenario=start-only", "--exclude-rejected", f"--faults={faults}",
            f"--stages={seconds:g}s@{rate:g},{NORMAL_SECONDS:g}s@{NORMAL_RATE:g}",
        )  # fmt: skip
        recovery = recovery_of(run.orders(), run.report["started_at"], seconds)
    proof.print_report(run, summary(recovery, usage))
    unproven = usage.gaps()
    if not run.report["run"]["rejected"]:
        unproven.append("no start was rejected: the load was below the capacity")
    if not recovery.sent:
        unproven.append("no order was sent after the overload")
    return proof.conclude(run, breaches(run.report, recovery, usage), unproven)


def recovery_of(orders: Sequence[dict[str, str]], started_at: str, overload_seconds: float) -> Recovery:
    """Return what happened to the orders after the overload, from the rows of orders.csv."""
    start = datetime.fromisoformat(started_at)
    sent = []
    for order in orders:
        requested_at = datetime.fromisoformat(order["requested_at"])
        sent.append(((requested_at - start).total_seconds() - overload_seconds, bool(order["accepted_at"])))
    recovered = [is_accepted for seconds, is_accepted in sent if seconds >= RECOVERY_SECONDS]
    return Recovery(
        sent=len(recovered),
        not_accepted=recovered.count(False),
        first_accepted_seconds=min(
            (seconds for seconds, is_accepted in sent if seconds >= 0 and is_accepted), default=None
        ),
    )


def breaches(verdict: Json, recovery: Recovery, usage: MemoryUsage) -> list[str]:
    """Return one sentence for each broken promise."""
    found = [f"{name} ended during the run" for name in sorted(usage.ended)]
    if late := verdict["limit"]["late"]:
        found.append(f"{late} orders were late, or refused without 429")
    if recovery.not_accepted:
        found.append(
            f"{recovery.not_accepted} of {recovery.sent} orders sent {RECOVERY_SECONDS:g} s or more "
            "after the overload were not accepted"
        )
    found += [
        f"{name} used {usage.peak_mib(name):.0f} MiB, limit {limit} MiB"
        for name in usage.pids
        if usage.peak_mib(name) > (limit := memory_limit_mib(name))
    ]
    return found


def memory_limit_mib(component: str) -> int:
    """Return the limit of a component such as `order-worker-1`. Raises KeyError for an unknown one."""
    return MEMORY_LIMITS_MIB[component.rstrip("-0123456789")]


def summary(recovery: Recovery, usage: MemoryUsage) -> list[str]:
    """Return the recovery and the memory as Markdown."""
    first = recovery.first_accepted_seconds
    rows = ((name, f"{usage.peak_mib(name):.0f}", memory_limit_mib(name)) for name in usage.pids)
    return [
        f"After the overload: first order accepted {'never' if first is None else f'after {first:.1f} s'}; "
        f"from {RECOVERY_SECONDS:g} s on, {recovery.sent - recovery.not_accepted} of {recovery.sent} orders "
        "accepted.",
        "",
        *proof.table(("memory in MiB", "peak", "limit"), *rows),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m loadtest.proofs.overload", description=__doc__)
    parser.add_argument("--rate", type=float, default=RATE, help="orders per second")
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--faults", default=FAULTS, help="fault profile")
    options = parser.parse_args()
    proof.exit_with(lambda settings: overload(settings, options.rate, options.seconds, options.faults))


if __name__ == "__main__":
    main()
