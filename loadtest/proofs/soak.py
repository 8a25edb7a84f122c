"""`python -m loadtest.proofs.soak`: a long load test at a constant rate; late orders, memory and disk.

Starts its own stack in a temporary directory, on the ports of the settings, and prints a Markdown report.
Exits with 3 when an order was late, a component ended or its memory grew, with 5 when the run was too short
to prove constant memory, and otherwise with the exit code of the load test.
"""

import argparse
from collections.abc import Mapping

from loadtest.proofs.proof import (
    Json,
    conclude,
    exit_with,
    own_stack,
    print_report,
    run_load_test,
    table,
)
from loadtest.proofs.resource_usage import MIB, DiskUsage, MemoryTrend, MemoryUsage
from orchestrator.embedded.layout import Layout
from orchestrator.errors import ExitCode, UsageError
from orchestrator.settings import Settings

MINUTES = 30.0
RATE = 6.0
FAULTS = "assignment"
TARGET = 0.999
MAX_GROWTH = 0.05
"""Allowed growth of the mean memory from the second to the last third of the run."""

MIN_MINUTES = 15.0
"""In a shorter run the components are still warming up."""


def soak(settings: Settings, minutes: float, rate: float, faults: str) -> ExitCode:
    """Run the proof and print its report. Raises UsageError when it cannot be run."""
    if minutes * 60 * rate < 1:
        raise UsageError("The run is too short for a single order at this rate.")
    with own_stack(settings, "soak") as stack:
        layout = Layout.of(stack.settings)
        before = DiskUsage.of(layout)
        with MemoryUsage.of(stack) as usage:
            run = run_load_test(
                stack.settings, "soak", "--scenario=start-only", f"--rate={rate:g}",
                f"--duration={minutes * 60:g}s", f"--faults={faults}", f"--slo-target={TARGET}",
            )  # fmt: skip
        after = DiskUsage.of(layout)
    trends = usage.trends(minutes * 60)
    disk = disk_report(before, after, run.report["limit"]["orders"])
    print_report(run, memory_report(trends, usage), disk)
    # During the warm-up memory grows in every run.
    steady = trends if minutes >= MIN_MINUTES else {}
    return conclude(run, breaches(run.report, steady, usage.ended), unproven(minutes, trends, usage))


def breaches(verdict: Json, trends: Mapping[str, MemoryTrend], ended: set[str]) -> list[str]:
    """Return one sentence for each broken promise."""
    found = [f"{name} ended during the run" for name in sorted(ended)]
    if late := verdict["limit"]["late"]:
        found.append(f"{late} orders were late")
    found += [
        f"the memory of {name} grows: {trend.second:.1f} MiB in the second third, "
        f"{trend.third:.1f} MiB in the last ({trend.change:+.1%})"
        for name, trend in trends.items()
        if trend.change > MAX_GROWTH
    ]
    return found


def unproven(minutes: float, trends: Mapping[str, MemoryTrend], usage: MemoryUsage) -> list[str]:
    """Return one sentence for each reason why constant memory is not proven."""
    found = usage.gaps()
    found += [
        f"too few memory samples of {component.name}"
        for component in usage.components
        if component.name not in trends
    ]
    if minutes < MIN_MINUTES:
        found.append(f"a memory trend needs at least {MIN_MINUTES:g} minutes")
    return found


def memory_report(trends: Mapping[str, MemoryTrend], usage: MemoryUsage) -> list[str]:
    """Return the Markdown table of the memory."""
    rows = (
        (
            name,
            f"{each.first:.1f}",
            f"{each.second:.1f}",
            f"{each.third:.1f}",
            f"{each.change:+.1%}",
            f"{each.peak:.1f}",
        )
        for name, each in trends.items()
    )
    return [
        *table(("memory in MiB", "first third", "second third", "last third", "change", "peak"), *rows),
        "",
        "Memory is the proportional set size (PSS) of a component and its child processes, without shared "
        f"memory. PostgreSQL used {usage.shared_mib:.0f} MiB of its shared memory at the end.",
    ]


def disk_report(before: DiskUsage, after: DiskUsage, orders: int) -> list[str]:
    """Return the Markdown table of the disk growth."""
    growth = (
        ("PostgreSQL, tables and indexes", after.tables - before.tables),
        ("PostgreSQL, write-ahead log (limited to about 1 GB)", after.wal - before.wal),
        ("Temporal's database", after.temporal - before.temporal),
        ("logs (each limited to 80 MB)", after.logs - before.logs),
    )
    rows = (
        (name, f"{size / MIB:.1f} MiB", f"{size / max(orders, 1) / 1024:.1f} KiB") for name, size in growth
    )
    return table(("disk", "growth", "per order"), *rows)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m loadtest.proofs.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=MINUTES)
    parser.add_argument("--rate", type=float, default=RATE, help="orders per second")
    parser.add_argument("--faults", default=FAULTS, help="fault profile")
    options = parser.parse_args()
    exit_with(lambda settings: soak(settings, options.minutes, options.rate, options.faults))


if __name__ == "__main__":
    main()
