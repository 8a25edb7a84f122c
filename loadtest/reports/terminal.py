"""Terminal output of a run: progress, and the verdict."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gevent
from rich.console import Console
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from loadtest.run import Run
from loadtest.verdict.slo import upper_bound
from loadtest.verdict.verdict_rows import TIME_COLUMNS, time_rows, verdict_rows
from orchestrator.errors import ExitCode

LINE_SECONDS = 5.0
REFRESH_SECONDS = 0.5

_COLORS = {ExitCode.PASSED: "green", ExitCode.NOT_PROVEN: "yellow"}


class _Console(Console):
    """Drops its output once the reader has closed it (`loadtest run | head`, a closed terminal).

    By default rich ends the process then, and the run would have no verdict.
    """

    def on_broken_pipe(self) -> None:
        self.quiet = True
        # Python flushes the stream at exit, and would replace the exit code if that failed.
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.file.fileno())

    def print(self, *objects: Any, **options: Any) -> None:
        try:
            super().print(*objects, **options)
        except OSError:
            self.on_broken_pipe()


console = _Console()
error_console = _Console(stderr=True)


def print_error(message: str) -> None:
    error_console.print(Text(message, style="red"), soft_wrap=True)


@contextmanager
def progress(run: Run) -> Iterator[None]:
    """Show the progress of a run until it is drained, without delaying it."""
    showing = gevent.spawn(_show_progress, run)
    try:
        yield
    finally:
        showing.kill()


def _show_progress(run: Run) -> None:
    if console.is_terminal:
        with Live(console=console, auto_refresh=False) as live:
            while not run.is_drained:
                live.update(Text(progress_line(run)), refresh=True)
                gevent.sleep(REFRESH_SECONDS)
            live.update(Text(progress_line(run)), refresh=True)
        return
    printed_at = time.monotonic()
    while not run.is_drained:
        gevent.sleep(REFRESH_SECONDS)
        if time.monotonic() - printed_at >= LINE_SECONDS:
            console.print(Text(progress_line(run)), soft_wrap=True)
            printed_at = time.monotonic()


def progress_line(run: Run) -> str:
    """Return one line: orders sent, finished, in flight and late, and the upper bound of the late share."""
    tally = run.tally
    counted, late = tally.counted_so_far, tally.late_so_far
    bound = f"{upper_bound(late, counted):.2%}" if counted else "-"
    rejected = f"{tally.excluded} rejected   " if tally.excluded else ""
    of_plan = "" if run.planned is None else f" of {run.planned}"
    return (
        f"{min(run.seconds, 99_999):6.1f} s   {tally.offered}{of_plan} sent   {tally.finished} finished   "
        f"{rejected}{tally.in_flight} in flight   {late} late   at most {bound} late"
    )


def show_verdict(report: dict[str, Any]) -> None:
    """Print the verdict with its exact counts and times."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for row in verdict_rows(report):
        table.add_row(row.label, Text(row.value))
    color = _COLORS.get(report["exit_code"], "red")
    title = f"{report['run_id']} · {report['scenario']} · {report['verdict']}"
    console.print(Panel(table, title=title, border_style=color))
    times = Table("ms", *TIME_COLUMNS, box=None, pad_edge=False)
    for name, cells in time_rows(report["times"]):
        times.add_row(name, *cells, style="dim" if name.startswith("step ") else None)
    console.print(times)
    word = Text(report["verdict"], style=f"bold {color}")
    console.print(Text("verdict  ").append(word).append(f" (exit code {report['exit_code']})"))
    console.print(Text(f"reports  {report['report_dir']}"), soft_wrap=True)
