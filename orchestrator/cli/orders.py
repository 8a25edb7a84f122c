"""Commands about single orders. All of them use the REST API."""

import getpass
import json
import re
import time
from collections.abc import Iterator
from contextlib import nullcontext
from itertools import pairwise
from typing import Annotated, Any

import typer
from rich.live import Live
from typer.core import TyperCommand

from db.currencies import DEFAULT_CURRENCY
from db.domain import ORDER_ID_PATTERN, ExecutionMode, ReviewMode, State
from orchestrator.cli import output
from orchestrator.cli.connection import ApiUrl, connect
from orchestrator.cli.output import AsJson, console, echo, show
from orchestrator.errors import ExitCode, OrderConflict, ServiceUnavailable, UsageError
from orchestrator.rest_client import Json, RestClient
from orchestrator.settings import Settings

SAMPLE_ADDRESS = {"street": "1 Main Street", "city": "Springfield", "state": "IL", "zip": "62701"}

POLL_SECONDS = 0.25
LONG_POLL_SECONDS = 20.0
"""Less than the read timeout of the client."""

GRACE_SECONDS = 15.0
"""Time after the deadline for which `orders test` waits for the outcome."""


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        # In a container, the user id may have no name.
        return "cli"


def _valid_order_id(order_id: str) -> str:
    # The id becomes part of a URL path.
    if not re.fullmatch(ORDER_ID_PATTERN, order_id):
        raise UsageError(f"{order_id!r} is not an order id: use 1 to 64 letters, digits, '-' or '_'.")
    return order_id


class _OrderCommand(TyperCommand):
    """A command that accepts an order id such as -42, which Typer would read as an option."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        with_value = {
            name for each in self.params if not getattr(each, "is_flag", True) for name in each.opts
        }
        others: list[str] = []
        ids: list[str] = []
        for before, each in pairwise(["", *args]):
            is_id = before not in with_value and re.fullmatch(r"-\d[\w-]*", each)
            (ids if is_id else others).append(each)
        return super().parse_args(ctx, args if "--" in args or not ids else [*others, "--", *ids])


OrderId = Annotated[
    str,
    typer.Argument(metavar="ID", help="1 to 64 letters, digits, '-' or '_'.", callback=_valid_order_id),
]
USER_HELP = "Your user name by default."
_ADDRESS = typer.Option(metavar="JSON", help='{"street": ..., "city": ..., "state": ..., "zip": ...}')
Address = Annotated[str | None, _ADDRESS]
Reason = Annotated[str, typer.Option(help="The reason that is recorded.")]
Reviewer = Annotated[str, typer.Option(default_factory=_user, help=USER_HELP)]
Items = Annotated[list[str] | None, typer.Option("--item", metavar="SKU:QUANTITY:CENTS", help="Repeatable.")]
PaymentMethod = Annotated[
    str | None, typer.Option("--payment-method", help="The payment provider's id of the customer's card.")
]
Currency = Annotated[str, typer.Option("--currency", help="ISO 4217 code; prices are in its minor unit.")]
PaymentId = Annotated[str | None, typer.Option("--payment-id", help="pay-ID by default.")]
Review = Annotated[ReviewMode, typer.Option("--review", help="Automatic or manual review.")]
Execution = Annotated[
    ExecutionMode | None,
    typer.Option(
        "--execution",
        help="fast, or visible: every step is an activity of its own in Temporal's UI. By default "
        "ORDER_EXECUTION of the API.",
    ),
]
RunId = Annotated[str | None, typer.Option("--run-id", help="The load test of the order.")]


def register(app: typer.Typer) -> None:
    app.command(cls=_OrderCommand)(start)
    app.command(cls=_OrderCommand)(status)
    app.command(cls=_OrderCommand)(history)
    app.command("list")(list_orders)
    app.command(cls=_OrderCommand)(cancel)
    app.command("update-address", cls=_OrderCommand)(update_address)
    app.command(cls=_OrderCommand)(approve)
    app.command(cls=_OrderCommand)(reject)
    app.command("test", cls=_OrderCommand)(run_test_order)


def start(
    order_id: OrderId,
    address: Address = None,
    item: Items = None,
    payment_id: PaymentId = None,
    payment_method: PaymentMethod = None,
    currency: Currency = DEFAULT_CURRENCY,
    review: Review = ReviewMode.AUTO,
    execution: Execution = None,
    run_id: RunId = None,
    as_json: AsJson = False,
    api_url: ApiUrl = None,
) -> None:
    """Start an order. Address and items of a sample order are the default."""
    with connect(api_url) as api:
        body = _body(address, item, payment_id, review, execution, run_id)
        body |= {"currency": currency} | ({"payment_method": payment_method} if payment_method else {})
        response = api.post(f"/orders/{order_id}/start", body)
    show(response, as_json, f"{order_id}: {response['message']} (workflow {response['workflow_id']})")


def status(
    order_id: OrderId,
    wait: Annotated[
        float, typer.Option("--wait", min=0, help="Maximum seconds to wait for the outcome.")
    ] = 0.0,
    as_json: AsJson = False,
    api_url: ApiUrl = None,
) -> None:
    """Show the status of an order: step, retries and recent errors."""
    not_after = time.monotonic() + wait
    path = f"/orders/{order_id}/status"
    with connect(api_url) as api:
        response = api.get(path)
        while response["status"] == "running" and (seconds_left := not_after - time.monotonic()) > 0:
            response = api.get(path, wait=min(seconds_left, LONG_POLL_SECONDS))
    show(response, as_json, output.order_panel(response))


def history(order_id: OrderId, as_json: AsJson = False, api_url: ApiUrl = None) -> None:
    """Show every event of an order, oldest first."""
    with connect(api_url) as api:
        response = api.get(f"/orders/{order_id}/history")
    show(response, as_json, output.event_table(response["events"]))


def list_orders(
    state: Annotated[State | None, typer.Option("--state", help="Only orders in this state.")] = None,
    run_id: Annotated[str | None, typer.Option("--run-id", help="Only orders of this run.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=500, help="Orders per page.")] = 20,
    cursor: Annotated[str | None, typer.Option("--cursor", help="Cursor of the next page.")] = None,
    as_json: AsJson = False,
    api_url: ApiUrl = None,
) -> None:
    """List orders, newest first."""
    state_name = state.value if state else None
    with connect(api_url) as api:
        response = api.get("/orders", state=state_name, run_id=run_id, limit=limit, cursor=cursor)
    show(response, as_json, output.order_table(response["orders"]))
    if response["next_cursor"] and not as_json:
        echo(f"Next page: --cursor {response['next_cursor']}")


def cancel(
    order_id: OrderId,
    reason: Reason,
    cancelled_by: Annotated[str, typer.Option(default_factory=_user, help=USER_HELP)],
    as_json: AsJson = False,
    api_url: ApiUrl = None,
) -> None:
    """Cancel an order, until it is dispatched."""
    _send(api_url, order_id, "cancel", {"reason": reason, "cancelled_by": cancelled_by}, as_json)


def update_address(
    order_id: OrderId,
    address: Annotated[str, _ADDRESS],
    updated_by: Annotated[str, typer.Option(default_factory=_user, help=USER_HELP)],
    as_json: AsJson = False,
    api_url: ApiUrl = None,
) -> None:
    """Change the address of an order, until it is dispatched."""
    body = {"new_address": _json_object(address), "updated_by": updated_by}
    _send(api_url, order_id, "update-address", body, as_json)


def approve(order_id: OrderId, reviewer: Reviewer, as_json: AsJson = False, api_url: ApiUrl = None) -> None:
    """Approve an order that awaits its review."""
    _send(api_url, order_id, "approve", {"reviewer": reviewer}, as_json)


def reject(
    order_id: OrderId,
    reason: Reason,
    reviewer: Reviewer,
    as_json: AsJson = False,
    api_url: ApiUrl = None,
) -> None:
    """Reject an order that awaits its review. Nothing is charged."""
    _send(api_url, order_id, "reject", {"reviewer": reviewer, "reason": reason}, as_json)


def run_test_order(
    order_id: OrderId,
    address: Address = None,
    item: Items = None,
    review: Review = ReviewMode.AUTO,
    execution: Execution = None,
    run_id: RunId = None,
    as_json: AsJson = False,
    api_url: ApiUrl = None,
) -> None:
    """Start an order and show its progress. Exits 0 if it completes within the limit, else 3."""
    with connect(api_url) as api:
        body = _body(address, item, None, review, execution, run_id)
        response = api.post(f"/orders/{order_id}/start", body)
        if response["status"] != "started":
            raise OrderConflict(f"Order {order_id} exists already. Use a new id.")
        last = _follow(api, order_id, as_json)
    if as_json:
        output.print_json(last)
    elif last is not None and not console.is_terminal:
        console.print(output.order_panel(last))
    if last is None or last["status"] == "running":
        output.print_error(f"{order_id} has no outcome {GRACE_SECONDS:g} s after its deadline.")
    if last is None or last["status"] != "completed" or not last["within_limit"]:
        raise typer.Exit(ExitCode.LIMIT_BREACHED)


def _follow(api: RestClient, order_id: str, as_json: bool) -> Json | None:
    """Show the progress of an order and return its last status."""
    last = None
    with (
        nullcontext()
        if as_json or not console.is_terminal
        else Live(console=console, auto_refresh=False) as live
    ):
        for status in _poll(api, order_id):
            if live is not None:
                live.update(output.order_panel(status), refresh=True)
            elif not as_json and (last is None or last["state"] != status["state"]):
                echo(f"{status['updated_at']} {status['state']}")
            last = status
    return last


def _poll(api: RestClient, order_id: str) -> Iterator[Json]:
    """Yield the status until the outcome or the end of the grace period, also after failures of the API."""
    not_after = time.monotonic() + Settings.load().order_deadline_seconds + GRACE_SECONDS
    while time.monotonic() < not_after:
        try:
            status = api.get(f"/orders/{order_id}/status")
        except ServiceUnavailable:
            time.sleep(POLL_SECONDS)
            continue
        yield status
        if status["status"] != "running":
            return
        time.sleep(POLL_SECONDS)


def _send(api_url: str | None, order_id: str, signal: str, body: Json, as_json: bool) -> None:
    with connect(api_url) as api:
        response = api.post(f"/orders/{order_id}/signals/{signal}", body)
    show(response, as_json, f"{order_id}: {response['message']}")


def _body(
    address: str | None,
    items: list[str] | None,
    payment_id: str | None,
    review: ReviewMode,
    execution: ExecutionMode | None,
    run_id: str | None,
) -> Json:
    body = {
        "initial_address": SAMPLE_ADDRESS if address is None else _json_object(address),
        "review": review.value,
        "execution": execution and execution.value,
        "items": [_item(text) for text in items or ()] or None,
        "payment_id": payment_id,
        "run_id": run_id,
    }
    return {name: value for name, value in body.items() if value is not None}


def _item(text: str) -> Json:
    parts = text.rsplit(":", 2)
    if len(parts) != 3 or not parts[1].isdecimal() or not parts[2].isdecimal():
        raise UsageError(f"--item must be SKU:QUANTITY:CENTS (for example CUP-1:2:1250), not {text}.")
    return {"sku": parts[0], "quantity": int(parts[1]), "unit_price_cents": int(parts[2])}


def _json_object(address: str) -> Json:
    try:
        value: Any = json.loads(address)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise UsageError(
            "--address must be a JSON object with street, city and optionally street2, state, zip, country."
        )
    return value
