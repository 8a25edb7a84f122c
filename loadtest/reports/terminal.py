"""A run on the terminal: its progress, and the verdict."""

import sys
import time
from typing import Any

import gevent
from rich.console import Console
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from loadtest.run import Run
from loadtest.verdict.slo import upper_bound
from loadtest.verdict.verdict_text import TIMES, facts

LINE_SECONDS = 5.0
REFRESH_SECONDS = 0.5

_PARTS = ("count", "mean", "p50", "p90", "p95", "p99", "max")

console = Console()
complaints = Console(stderr=True)


def complain(sentence: str) -> None:
    complaints.print(Text(sentence, style="red"), soft_wrap=True)


def show_progress(run: Run) -> None:
    """Shows how the run stands until it is drained. Blocks, and never holds the run up."""
    if console.is_terminal:
        with Live(console=console, auto_refresh=False) as live:
            while not run.is_drained:
                live.update(Text(so_far(run)), refresh=True)
                gevent.sleep(REFRESH_SECONDS)
            live.update(Text(so_far(run)), refresh=True)
        return
    told_at = time.monotonic()
    while not run.is_drained:
        gevent.sleep(REFRESH_SECONDS)
        if time.monotonic() - told_at >= LINE_SECONDS:
            console.print(Text(so_far(run)), soft_wrap=True)
            sys.stdout.flush()
            told_at = time.monotonic()


def so_far(run: Run) -> str:
    """One line: sent, finished, in flight, late, and what the bound is by now."""
    tally = run.tally
    judged, late = tally.judged_so_far, tally.late_so_far
    bound = f"{upper_bound(late, judged):.2%}" if judged else "-"
    shed = f"{tally.shed_apart} shed   " if tally.shed_apart else ""
    of_plan = "" if run.planned is None else f" of {run.planned}"
    return (
        f"{min(run.seconds, 99_999):6.1f} s   {tally.offered}{of_plan} sent   "
        f"{tally.finished} finished   {shed}{tally.in_flight} in flight   {late} late   at most {bound} late"
    )


def show_verdict(told: dict[str, Any]) -> None:
    """The verdict with its exact counts."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, fact in facts(told).items():
        table.add_row(name, Text(fact))
    passed = told["exit_code"] == 0
    title = f"{told['run_id']} · {told['scenario']} · {told['verdict']}"
    console.print(Panel(table, title=title, border_style="green" if passed else "red"))
    console.print(_times(told["times"]))
    word = Text("passed", style="bold green") if passed else Text(told["verdict"], style="bold red")
    console.print(Text("verdict  ").append(word).append(f" (exit code {told['exit_code']})"))
    console.print(Text(f"reports  {told['report_dir']}"), soft_wrap=True)


def _times(times: dict[str, Any]) -> Table:
    table = Table("ms", *_PARTS, box=None, pad_edge=False)
    for name in TIMES:
        if times[name] is not None:
            cells = [f"{times[name][part]:.0f}" for part in _PARTS]
            table.add_row(name.removesuffix("_ms").replace("_", " "), *cells)
    for name, spread in times["steps_ms"].items():
        table.add_row(f"  {name}", "", *(f"{spread[part]:.0f}" for part in _PARTS[1:]), style="dim")
    return table
