"""Terminal output of the commands."""

import json
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from db.currencies import money_text
from orchestrator.rest_client import Json

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]

WIDTH_WITHOUT_TERMINAL = 160
MAX_LISTED_ORDERS = 20

console = Console()
if not console.is_terminal:
    console = Console(width=WIDTH_WITHOUT_TERMINAL)
_error_console = Console(stderr=True)

_STATE_STYLES = {"completed": "green", "cancelled": "yellow", "failed": "red"}


def print_error(sentence: str) -> None:
    _error_console.print(Text(sentence, style="red"), soft_wrap=True)


def echo(sentence: str) -> None:
    console.print(Text(sentence), soft_wrap=True)


def echo_step(sentence: str) -> None:
    """Print a step of a longer command, indented."""
    echo(f"  {sentence}")


def print_json(value: Any) -> None:
    # Not through Rich: it would wrap long lines.
    typer.echo(json.dumps(value, indent=2))


def show(response: Json, as_json: bool, output: RenderableType) -> None:
    """Print the response as JSON, or the output for people."""
    if as_json:
        print_json(response)
    else:
        console.print(Text(output) if isinstance(output, str) else output, soft_wrap=isinstance(output, str))


def order_panel(status: Json) -> RenderableType:
    """Return the status of an order: facts, time and recent errors."""
    facts = {
        "order": status["order_id"],
        "state": _state(status["state"]),
        "step": status["current_step"] or "-",
        "done": ", ".join(status["completed_steps"]) or "-",
        "retries": ", ".join(f"{step} {n}" for step, n in status["retries"].items()) or "none",
        "accepted": status["created_at"],
        "deadline": status["deadline_at"],
    }
    if status["completion_ms"] is not None:
        verdict = "within the limit" if status["within_limit"] else "LATE"
        facts["time"] = f"{status['completion_ms']} ms, {verdict}"
    if status["result"]:
        result = status["result"]
        facts["result"] = f"{money_text(result['amount_cents'], result['currency'])}, {result['tracking']}"
    if status["error"] or status["reason"]:
        facts["reason"] = status["error"] or status["reason"]
    facts_table = Table.grid(padding=(0, 2))
    for name, value in facts.items():
        facts_table.add_row(Text(name, style="bold"), _cell(value))
    if not status["recent_errors"]:
        return facts_table
    errors = [
        (_clock(error["at"]), error["step"], error["attempt"], error["outcome"], error["error"])
        for error in status["recent_errors"]
    ]
    return Group(facts_table, table("at, step, attempt, outcome, error", errors))


def order_table(orders: list[Json]) -> Table:
    rows = [
        (
            order["order_id"],
            _state(order["state"]),
            order["current_step"],
            order["run_id"],
            order["reason"],
            order["created_at"].replace("T", " "),
            order["completion_ms"],
            {True: "yes", False: "LATE", None: ""}[order["within_limit"]],
        )
        for order in orders
    ]
    return table("order, state, step, run, reason, accepted, ms, in time", rows)


def event_table(events: list[Json]) -> Table:
    rows = [
        (
            _clock(event["at"]),
            event["kind"],
            _state(event["state"]),
            (event["step"] or "") + ("" if event["attempt"] is None else f" {event['attempt']}"),
            event["outcome"],
            "" if event["duration_ms"] is None else f"{event['duration_ms']:.0f}",
            event["worker"],
            _detail(event["detail"] or {}),
        )
        for event in events
    ]
    return table("at, event, state, step, outcome, ms, worker, detail", rows)


def run_table(runs: list[Json]) -> Table:
    rows = [
        (
            run["run_id"],
            run["label"],
            "yes" if run["is_baseline"] else "",
            run["verdict"] or ("no verdict" if run["ended_at"] else "running or aborted"),
            run["scenario"],
            run["started_at"],
            run["orders"],
            run["late"],
            "" if run["p99_ms"] is None else f"{run['p99_ms']:.0f}",
        )
        for run in runs
    ]
    return table("run, label, baseline, verdict, scenario, started, orders, late, p99 ms", rows)


def table(columns: str, rows: Iterable[Sequence[object]]) -> Table:
    """Return a table; `columns` are names separated by commas. None is an empty cell."""
    result = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns.split(", "):
        result.add_column(column, overflow="fold")
    for row in rows:
        result.add_row(*(_cell(value) for value in row))
    return result


def _cell(value: object) -> Text:
    """Return plain text: a string would be interpreted as markup."""
    return value if isinstance(value, Text) else Text("" if value is None else str(value))


def _state(state: str) -> Text:
    return Text(state, style=_STATE_STYLES.get(state, "cyan"))


def _clock(time: str) -> str:
    """Return the time of day of an RFC 3339 time, to the millisecond."""
    return time[11:23]


def _detail(detail: Json) -> str:
    present = {name: value for name, value in detail.items() if value not in (None, "")}
    return ", ".join(
        f"{name} {value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}"
        for name, value in present.items()
    )


def audit_report(report: Json) -> RenderableType:
    """Return a table of the invariants, and each violation with its evidence."""
    invariants = [
        (
            invariant["number"],
            invariant["text"],
            Text("yes", style="green") if invariant["holds"] else Text("NO", style="bold red"),
        )
        for invariant in report["invariants"]
    ]
    open_orders = f"{report['open']} in progress, {report['overdue']} of them past their limit"
    parts: list[RenderableType] = [
        table(", invariant, holds", invariants),
        Text(
            f"{report['finished']} orders checked, {report['late']} late, {open_orders}; "
            f"{report['workflows_checked']} workflow results compared"
        ),
    ]
    if report["open_orders"]:
        parts.append(Text(f"in progress: {_first_of(report['open_orders'])}"))
    if report["uncompared"]:
        parts.append(
            Text(
                f"{report['uncompared']} orders not compared: their workflows are running, are not in "
                "Temporal's list of closed workflows yet, or have been deleted after the retention period"
            )
        )
    if report["without_events"]:
        parts.append(
            Text(
                f"{report['without_events']} of them were accepted before {report['events_since']}, and "
                "their events have been deleted: invariants 1, 2, 6, 7 and 9 are not checked for these"
            )
        )
    parts += [
        Text(
            f"invariant {violation['invariant']}, order {violation['order_id']}: {violation['finding']}\n"
            f"  {json.dumps(violation['evidence'], ensure_ascii=False)}",
            style="red",
        )
        for violation in report["violations"]
    ]
    return Group(*parts)


def _first_of(order_ids: list[str]) -> str:
    omitted = len(order_ids) - MAX_LISTED_ORDERS
    named = ", ".join(order_ids[:MAX_LISTED_ORDERS])
    return f"{named} and {omitted} more" if omitted > 0 else named
