"""`python -m loadtest.proofs.soak`: a long load test at a constant rate; late orders and memory.

Starts its own stack in a temporary directory, on the ports of the settings, and prints a Markdown report.
Exits with 3 when an order was late, a component ended or its memory grew, with 5 when the run was too short
to prove constant memory, and otherwise with the exit code of the load test.
"""

import argparse

from loadtest.proofs import proof
from loadtest.proofs.memory_usage import MemoryUsage
from orchestrator.errors import ExitCode, UsageError
from orchestrator.rest_client import Json
from orchestrator.settings import Settings

MINUTES = 30.0
RATE = 6.0
FAULTS = "assignment"
TARGET = 0.999
MAX_GROWTH = 0.05
"""Allowed growth of the mean memory from the second to the last third of the run."""

MIN_MINUTES = 15.0
"""In a shorter run the components are still warming up, and memory grows in every run."""


def soak(settings: Settings, minutes: float, rate: float, faults: str) -> ExitCode:
    """Run the proof and print its report. Raises UsageError when it cannot be run."""
    if minutes * 60 * rate < 1:
        raise UsageError("The run is too short for a single order at this rate.")
    with proof.own_stack(settings, "soak") as stack, MemoryUsage.of(stack) as usage:
        run = proof.run_load_test(
            stack.settings, "soak", "--scenario=start-only", f"--rate={rate:g}",
            f"--duration={minutes * 60:g}s", f"--faults={faults}", f"--slo-target={TARGET}",
        )  # fmt: skip
    proof.print_report(run, memory_report(usage, minutes))
    return proof.conclude(run, breaches(run.report, usage, minutes), unproven(usage, minutes))


def breaches(verdict: Json, usage: MemoryUsage, minutes: float) -> list[str]:
    """Return one sentence for each broken promise."""
    found = [f"{name} ended during the run" for name in sorted(usage.ended)]
    if late := verdict["limit"]["late"]:
        found.append(f"{late} orders were late")
    if minutes < MIN_MINUTES:
        return found
    return found + [
        f"the memory of {name} grows: {second:.1f} MiB in the second third, {third:.1f} MiB in the last "
        f"({third / second - 1:+.1%})"
        for name, (_, second, third) in usage.thirds(minutes * 60).items()
        if third > second * (1 + MAX_GROWTH)
    ]


def unproven(usage: MemoryUsage, minutes: float) -> list[str]:
    """Return one sentence for each reason why constant memory is not proven."""
    found = usage.gaps()
    if minutes < MIN_MINUTES:
        found.append(f"a memory trend needs at least {MIN_MINUTES:g} minutes")
    return found


def memory_report(usage: MemoryUsage, minutes: float) -> list[str]:
    """Return the Markdown table of the memory."""
    rows = []
    for name, thirds in usage.thirds(minutes * 60).items():
        change = thirds[2] / thirds[1] - 1 if thirds[1] else 0.0
        means = [f"{mean:.1f}" for mean in thirds]
        rows.append((name, *means, f"{change:+.1%}", f"{usage.peak_mib(name):.1f}"))
    return [
        *proof.table(("memory in MiB", "first third", "second third", "last third", "change", "peak"), *rows),
        "",
        "Memory is the proportional set size (PSS) of a component and its child processes, without shared "
        f"memory. PostgreSQL used {usage.shared_mib:.0f} MiB of its shared memory at the end.",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m loadtest.proofs.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=MINUTES)
    parser.add_argument("--rate", type=float, default=RATE, help="orders per second")
    parser.add_argument("--faults", default=FAULTS, help="fault profile")
    options = parser.parse_args()
    proof.exit_with(lambda settings: soak(settings, options.minutes, options.rate, options.faults))


if __name__ == "__main__":
    main()
