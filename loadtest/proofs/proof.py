"""Proofs: load tests on their own stack, with checks beyond those of the verdict."""

import csv
import json
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from loadtest.reports.documents import markdown
from loadtest.reports.run_metadata import commit, machine
from orchestrator.embedded import Stack
from orchestrator.embedded.layout import PROJECT_ROOT, stack_environment
from orchestrator.errors import ExitCode, OrderSystemError, UsageError
from orchestrator.rest_client import Json
from orchestrator.settings import Settings


@dataclass(frozen=True)
class FinishedRun:
    """A load test with its verdict; `report` is its verdict.json."""

    exit_code: ExitCode
    report: Json
    directory: Path

    def orders(self) -> list[dict[str, str]]:
        """Return the rows of orders.csv. Raises OrderSystemError when that report is missing."""
        try:
            with (self.directory / "orders.csv").open(encoding="utf-8") as file:
                return list(csv.DictReader(file))
        except FileNotFoundError:
            raise OrderSystemError(f"Run {self.report['run_id']} has no orders.csv.") from None


def run_load_test(settings: Settings, name: str, *options: str) -> FinishedRun:
    """Run `python -m loadtest run` against the stack of these settings; its output goes to stderr.

    Raises OrderSystemError when the run ends without a verdict.
    """
    run_id = f"{name}-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    command = [sys.executable, "-m", "loadtest", "run", f"--run-id={run_id}", f"--host={settings.api_url}"]
    finished = subprocess.run(
        [*command, *options],
        cwd=PROJECT_ROOT, env=stack_environment(settings), stdout=sys.stderr, check=False,
    )  # fmt: skip
    directory = settings.home / "reports" / run_id
    if not (directory / "verdict.json").exists():
        raise OrderSystemError(f"Run {run_id} ended without a verdict (exit code {finished.returncode}).")
    report = json.loads((directory / "verdict.json").read_text(encoding="utf-8"))
    return FinishedRun(ExitCode(finished.returncode), report, directory)


def conclude(run: FinishedRun, breaches: list[str], unproven: list[str]) -> ExitCode:
    """Print the failed checks to stderr and return the exit code of the proof.

    A broken invariant or an invalid run outranks breaches, which outrank what is not proven.
    """
    for message in (*breaches, *(f"not proven: {reason}" for reason in unproven)):
        print_error(message)
    if run.exit_code not in (ExitCode.PASSED, ExitCode.LIMIT_BREACHED, ExitCode.NOT_PROVEN):
        return run.exit_code
    if breaches or run.exit_code is ExitCode.LIMIT_BREACHED:
        return ExitCode.LIMIT_BREACHED
    if unproven or run.exit_code is ExitCode.NOT_PROVEN:
        return ExitCode.NOT_PROVEN
    return ExitCode.PASSED


def setup_text() -> str:
    """Return the commit and the machine of a measurement in one line."""
    host = machine()
    return (
        f"Commit {commit() or 'unknown'}, {host['cpus']} cores, {host['memory_mb']} MB, {host['system']}, "
        f"Python {host['python']}"
    )


def table(header: tuple[str, ...], *rows: tuple[object, ...]) -> list[str]:
    """Return the lines of a Markdown table."""
    lines = [header, ("---",) * len(header), *rows]
    return [f"| {' | '.join(str(cell) for cell in line)} |" for line in lines]


@contextmanager
def own_stack(settings: Settings, name: str) -> Iterator[Stack]:
    """Start a stack in a temporary directory, and remove both at the end. Main thread only.

    Raises UsageError for settings with external servers, and on systems without /proc; StackError when the
    stack cannot be started.
    """
    if not Path("/proc/self/smaps_rollup").exists():
        raise UsageError("Memory can only be measured on Linux (/proc/PID/smaps_rollup).")
    if not (settings.uses_embedded_postgres and settings.uses_embedded_temporal):
        raise UsageError("This measures the embedded stack: unset DATABASE_URL and TEMPORAL_ADDRESS.")
    home = Path(tempfile.mkdtemp(prefix=f"orders-{name}-")).resolve()
    stack = Stack(settings.isolated(home))
    try:
        stack.up(bound=True)
        yield stack
    finally:
        stack.down()
        shutil.rmtree(home, ignore_errors=True)


def exit_with(proof: Callable[[Settings], ExitCode]) -> None:
    """Run a proof and end the process with its exit code; errors are one sentence on stderr."""
    # SIGTERM must stop the stack too, like Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        code = proof(Settings.load())
    except OrderSystemError as error:
        print_error(str(error))
        code = ExitCode.WRONG_USAGE if isinstance(error, UsageError) else ExitCode.CRASHED
    sys.exit(code)


def print_report(run: FinishedRun, section: list[str]) -> None:
    """Print the setup, the summary of the verdict and one more section as Markdown."""
    sys.stdout.write("\n".join((setup_text(), "", markdown(run.report), *section)) + "\n")


def print_error(message: str) -> None:
    sys.stderr.write(message + "\n")
