"""`python -m loadtest.proofs.soak`: orders at an even rate for long, and what that leaves behind.

Starts a stack of its own in a temporary directory, on the ports of the settings, and runs one load test on
it. Prints a Markdown report. Exits with the code of the load test's verdict if that is not 0; with 3 when an
order was late, or the memory of a component grew; with 5 when the run was too short to tell.
"""

import argparse
import json
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from loadtest.preflight import ROOT, commit, machine
from loadtest.proofs.resource_usage import Disk, Footprint, Trend, can_be_measured
from orchestrator.embedded import Stack
from orchestrator.embedded.layout import Layout, stack_environment
from orchestrator.errors import OrderSystemError, UsageError
from orchestrator.exit_codes import ExitCode
from orchestrator.settings import Settings

MINUTES = 30.0
RATE = 6.0
FAULTS = "assignment"
TARGET = 0.999
MAY_GROW_BY = 0.05
"""How far the last third's mean memory may be above the second's."""

MIN_MINUTES = 15.0
"""Shorter runs end while the parts still warm up."""

Json = dict[str, Any]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m loadtest.proofs.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=MINUTES)
    parser.add_argument("--rate", type=float, default=RATE, help="orders a second")
    parser.add_argument("--faults", default=FAULTS, help="fault profile")
    options = parser.parse_args()
    # Whoever ends us wants the stack gone too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return soak(Settings.load(), options.minutes, options.rate, options.faults)
    except UsageError as error:
        complain(str(error))
        return ExitCode.WRONG_USAGE
    except OrderSystemError as error:
        complain(str(error))
        return ExitCode.CRASHED


def soak(settings: Settings, minutes: float, rate: float, faults: str) -> int:
    """Runs it and prints the report; returns the exit code. Raises UsageError when it cannot be run."""
    if not can_be_measured():
        raise UsageError("the memory of processes is read from Linux's /proc, which is not here")
    if minutes * 60 * rate < 1:
        raise UsageError("this is too short for a single order")
    with stack_of_its_own(settings, "soak") as stack:
        layout = Layout.of(stack.settings)
        before = Disk.of(layout)
        run_id = f"soak-{datetime.now(UTC):%Y%m%d-%H%M%S}"
        with Footprint.of(stack) as footprint:
            code = subprocess.run(
                [
                    *(
                        sys.executable,
                        "-m",
                        "loadtest",
                        "run",
                        "--run-id",
                        run_id,
                        "--scenario",
                        "start-only",
                    ),
                    *("--rate", str(rate), "--duration", f"{minutes * 60:g}s", "--faults", faults),
                    *("--slo-target", str(TARGET), "--host", stack.settings.api_url),
                ],
                cwd=ROOT,
                env=stack_environment(stack.settings),
                stdout=sys.stderr,
                check=False,
            ).returncode
        verdict_file = stack.settings.home / "reports" / run_id / "verdict.json"
        if not verdict_file.exists():
            return code or ExitCode.CRASHED
        verdict = json.loads(verdict_file.read_text())
        trends = footprint.trends(0.0, minutes * 60)
        grown = Disk.of(layout).since(before)
        found = problems(verdict, trends, footprint.lost)
        say(report(verdict, trends, footprint, grown))
    for name in trends:
        complain(f"{name}, MiB by minute: {' '.join(f'{mib:.0f}' for mib in footprint.by_minute(name))}")
    for problem in found:
        complain(problem)
    if code:
        return code
    if found:
        return ExitCode.LIMIT_BREACHED
    unknown = unproven(minutes, trends, footprint)
    for reason in unknown:
        complain(f"not proven: {reason}")
    return ExitCode.NOT_PROVEN if unknown else ExitCode.PASSED


def unproven(minutes: float, trends: Mapping[str, Trend], footprint: Footprint) -> list[str]:
    """Why nobody knows whether the memory is flat, a sentence each."""
    found = footprint.gaps()
    found += [
        f"the memory of {component.name} has no thirds"
        for component in footprint.components
        if component.name not in trends
    ]
    if minutes < MIN_MINUTES:
        found.append(f"memory is judged after {MIN_MINUTES:g} minutes and more")
    return found


def problems(verdict: Json, trends: Mapping[str, Trend], lost: set[str]) -> list[str]:
    """What is not as promised, a sentence each."""
    found = [f"{name} has not lived through the run" for name in sorted(lost)]
    if late := verdict["limit"]["late"]:
        found.append(f"{late} orders were late")
    found += [
        f"the memory of {name} grows: {trend.second:.1f} MiB in the second third, "
        f"{trend.third:.1f} MiB in the last ({trend.change:+.1%})"
        for name, trend in trends.items()
        if trend.change > MAY_GROW_BY
    ]
    return found


def report(verdict: Json, trends: Mapping[str, Trend], footprint: Footprint, grown: Disk) -> str:
    """Markdown."""
    run, limit, database, times = (verdict[part] for part in ("run", "limit", "database", "times"))
    orders, around = max(limit["orders"], 1), machine()
    completion = times["completion_ms"] or {"p50": 0.0, "p99": 0.0, "max": 0.0}
    clean = "clean" if database["clean"] else f"{len(database['violations'])} violations"
    lines = [
        f"{limit['orders']} orders at {run['offered_rate']:g}/s under the `{verdict['faults']['profile']}` "
        f"faults, commit {commit() or 'unknown'}, {around['cpus']} cores, {around['memory_mb']} MB, "
        f"{around['system']}, Python {around['python']}.",
        "",
        "| orders | late | outcomes | p50 | p99 | slowest | audit | generator lag p99 |",
        "|---|---|---|---|---|---|---|---|",
        f"| {limit['orders']} | {limit['late']} | "
        f"{', '.join(f'{count} {name}' for name, count in sorted(verdict['outcomes'].items()))} | "
        f"{completion['p50'] / 1000:.1f} s | {completion['p99'] / 1000:.1f} s | "
        f"{completion['max'] / 1000:.1f} s | {clean} | {(run['lag_ms'] or {'p99': 0.0})['p99']:.0f} ms |",
        "",
        "| memory in MiB | first third | second third | last third | change | peak |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {name} | {trend.first:.1f} | {trend.second:.1f} | {trend.third:.1f} | {trend.change:+.1%} | "
        f"{trend.peak:.1f} |"
        for name, trend in trends.items()
    ]
    lines += [
        "",
        "Memory is the proportional set size (PSS) of a component and its child processes, without shared "
        f"memory. Of PostgreSQL's shared memory, a block of fixed size, {footprint.shared_mib:.0f} MiB were "
        "in use at the end.",
        "",
        "| disk | grown by | per order |",
        "|---|---|---|",
    ]
    parts = (
        ("PostgreSQL, tables and indexes", grown.tables),
        ("PostgreSQL, write-ahead log (kept to at most about 1 GB)", grown.wal),
        ("Temporal's database", grown.temporal),
        ("logs (each kept to at most 80 MB)", grown.logs),
    )
    lines += [f"| {name} | {size / 2**20:.1f} MiB | {size / orders / 1024:.1f} KiB |" for name, size in parts]
    return "\n".join(lines)


@contextmanager
def stack_of_its_own(settings: Settings, name: str) -> Iterator[Stack]:
    """A fresh stack in a temporary directory, which goes with it. Call it from the main thread.

    Raises UsageError for settings that name external servers, and StackError when it cannot be started.
    """
    if not (settings.uses_embedded_postgres and settings.uses_embedded_temporal):
        raise UsageError("this measures the embedded stack: unset DATABASE_URL and TEMPORAL_ADDRESS")
    home = Path(tempfile.mkdtemp(prefix=f"orders-{name}-")).resolve()
    stack = Stack(settings.apart(home))
    try:
        stack.up(bound=True)
        yield stack
    finally:
        stack.down()
        shutil.rmtree(home, ignore_errors=True)


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def complain(text: str) -> None:
    sys.stderr.write(text + "\n")


if __name__ == "__main__":
    sys.exit(main())
