"""Terminal output of the commands."""

import json
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

Json = dict[str, Any]

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
        "state": state_text(status["state"]),
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
        facts["result"] = f"{status['result']['amount_cents']} cents, {status['result']['tracking']}"
    if status["error"] or status["reason"]:
        facts["reason"] = status["error"] or status["reason"]
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold")
    table.add_column()
    for name, value in facts.items():
        table.add_row(name, value if isinstance(value, Text) else Text(value))
    return Group(table, _errors(status["recent_errors"])) if status["recent_errors"] else table


def state_text(state: str) -> Text:
    return Text(state, style=_STATE_STYLES.get(state, "cyan"))


def _errors(errors: list[Json]) -> Table:
    table = _table("at", "step", "attempt", "outcome", "error")
    for error in errors:
        table.add_row(
            _clock(error["at"]),
            error["step"],
            str(error["attempt"]),
            error["outcome"],
            Text(error["error"]),
        )
    return table


def order_table(orders: list[Json]) -> Table:
    table = _table("order", "state", "step", "run", "reason", "accepted", "ms", "in time")
    for order in orders:
        in_time = {True: "yes", False: "LATE", None: ""}[order["within_limit"]]
        table.add_row(
            order["order_id"],
            state_text(order["state"]),
            order["current_step"] or "",
            order["run_id"] or "",
            order["reason"] or "",
            order["created_at"].replace("T", " "),
            "" if order["completion_ms"] is None else str(order["completion_ms"]),
            in_time,
        )
    return table


def event_table(events: list[Json]) -> Table:
    table = _table("at", "event", "state", "step", "outcome", "ms", "worker", "detail")
    for event in events:
        attempt = "" if event["attempt"] is None else f" {event['attempt']}"
        table.add_row(
            _clock(event["at"]),
            event["kind"],
            state_text(event["state"]),
            (event["step"] or "") + attempt,
            event["outcome"] or "",
            "" if event["duration_ms"] is None else f"{event['duration_ms']:.0f}",
            Text(event["worker"] or ""),
            Text(_detail(event["detail"] or {})),
        )
    return table


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


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
    table = _table("", "invariant", "holds")
    for invariant in report["invariants"]:
        verdict = Text("yes", style="green") if invariant["holds"] else Text("NO", style="bold red")
        table.add_row(str(invariant["number"]), Text(invariant["text"]), verdict)
    open_orders = f"{report['open']} in progress, {report['overdue']} of them past their deadline"
    parts: list[RenderableType] = [
        table,
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
