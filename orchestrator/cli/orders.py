"""Commands about orders: start one, look at it, ask for something, watch it to its outcome."""

import getpass
import json
import re
import time
from collections import deque
from collections.abc import Iterator
from typing import Annotated, Any

import typer
from rich.live import Live

from db.domain import ORDER_ID_PATTERN, ReviewMode, State
from orchestrator.cli.connection import ApiUrl, connect
from orchestrator.cli.output import (
    AsJson,
    console,
    echo,
    event_table,
    order_panel,
    order_table,
    print_error,
    print_json,
)
from orchestrator.errors import OrderConflict, ServiceUnavailable, UsageError
from orchestrator.exit_codes import ExitCode
from orchestrator.rest_client import Json, RestClient
from orchestrator.settings import Settings

SAMPLE_ADDRESS = {"street": "1 Main Street", "city": "Springfield", "state": "IL", "zip": "62701"}

WATCH_SECONDS = 0.25
GRACE_SECONDS = 15.0
"""How long past its deadline a watched order may still come to its outcome."""


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        # A container may run a user that has no name.
        return "cli"


def _well_formed(order_id: str) -> str:
    """Before it becomes part of an address."""
    if not re.fullmatch(ORDER_ID_PATTERN, order_id):
        raise UsageError(f"{order_id!r} is no order id: 1 to 64 letters, digits, '-' or '_'.")
    return order_id


OrderId = Annotated[
    str, typer.Argument(metavar="ID", help="1 to 64 letters, digits, '-' or '_'.", callback=_well_formed)
]
AddressJson = Annotated[
    str | None,
    typer.Option("--address", metavar="JSON", help='{"street": ..., "city": ..., "state": ..., "zip": ...}'),
]
Street = Annotated[str | None, typer.Option("--street")]
City = Annotated[str | None, typer.Option("--city")]
AddressState = Annotated[str | None, typer.Option("--state")]
Zip = Annotated[str | None, typer.Option("--zip")]
Items = Annotated[
    list[str] | None, typer.Option("--item", metavar="SKU:QUANTITY:CENTS", help="May be given again.")
]
PaymentId = Annotated[str | None, typer.Option("--payment-id", help="By default pay-ID.")]
Review = Annotated[ReviewMode, typer.Option("--review", help="Who reviews the order.")]
RunId = Annotated[str | None, typer.Option("--run-id", help="The load test it belongs to.")]


def register(app: typer.Typer) -> None:
    app.command()(start)
    app.command()(status)
    app.command()(history)
    app.command("list")(list_orders)
    app.command()(cancel)
    app.command("update-address")(update_address)
    app.command()(approve)
    app.command()(reject)
    app.command("test")(try_order)


def start(
    order_id: OrderId,
    address: AddressJson = None,
    street: Street = None,
    city: City = None,
    state: AddressState = None,
    zip_code: Zip = None,
    item: Items = None,
    payment_id: PaymentId = None,
    review: Review = ReviewMode.AUTO,
    run_id: RunId = None,
    as_json: AsJson = False,
    api_url: ApiUrl = None,
) -> None:
    """Start an order; without an address and items it is a sample order."""
    own = {"street": street, "city": city, "state": state, "zip": zip_code}
    body = _start_body(_address(address, own), item, payment_id, review, run_id)
    with connect(api_url) as api:
        answer = api.post(f"/orders/{order_id}/start", body)
    if as_json:
        print_json(answer)
    else:
        echo(f"{order_id}: {answer['message']} (workflow {answer['workflow_id']})")


def status(
    order_id: OrderId,
    wait: Annotated[
        float, typer.Option("--wait", min=0, help="Seconds to wait for the outcome at most.")
    ] = 0.0,
    as_json: AsJson = False,
    api_url: ApiUrl = None,
) -> None:
    """Show where an order stands: step, retries and recent errors, live from its events."""
    until = time.monotonic() + wait
    with connect(api_url) as api:
        answer = api.get(f"/orders/{order_id}/status")
        while answer["status"] == "running" and (seconds_left := until - time.monotonic()) > 0:
            # Held for less than the client's own patience.
            answer = api.get(f"/orders/{order_id}/status", wait=min(seconds_left, 20.0))
    if as_json:
        print_json(answer)
    else:
        console.print(order_panel(answer))


def history(order_id: OrderId, as_json: AsJson = False, api_url: ApiUrl = None) -> None:
    """Show every event of an order, oldest first."""
    with connect(api_url) as api:
        answer = api.get(f"/orders/{order_id}/history")
    if as_json:
        print_json(answer)
    else:
        console.print(event_table(answer["events"]))


def list_orders(
    state: Annotated[State | None, typer.Option("--state", help="Only orders in this state.")] = None,
    run_id: Annotated[str | None, typer.Option("--run-id", help="Only orders of this run.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=500)] = 20,
    cursor: Annotated[
        str | None, typer.Option("--cursor", help="The next page, as the last one named it.")
    ] = None,
    as_json: AsJson = False,
    api_url: ApiUrl = None,
) -> None:
    """List orders, newest first."""
    wanted = state.value if state else None
    with connect(api_url) as api:
        answer = api.get("/orders", state=wanted, run_id=run_id, limit=limit, cursor=cursor)
    if as_json:
        print_json(answer)
        return
    console.print(order_table(answer["orders"]))
    if answer["next_cursor"]:
        echo(f"more: --cursor {answer['next_cursor']}")


def cancel(
    order_id: OrderId,
    reason: Annotated[str, typer.Option("--reason")],
    cancelled_by: Annotated[str, typer.Option("--cancelled-by", default_factory=_user)],
    as_json: AsJson = False,
    api_url: ApiUrl = None,
) -> None:
    """Cancel an order, until its parcel is dispatched."""
    _ask(api_url, order_id, "cancel", {"reason": reason, "cancelled_by": cancelled_by}, as_json)


def update_address(
    order_id: OrderId,
    updated_by: Annotated[str, typer.Option("--updated-by", default_factory=_user)],
    address: AddressJson = None,
    street: Street = None,
    city: City = None,
    state: AddressState = None,
    zip_code: Zip = None,
    as_json: AsJson = False,
    api_url: ApiUrl = None,
) -> None:
    """Change where an order goes, until its parcel is dispatched."""
    own = {"street": street, "city": city, "state": state, "zip": zip_code}
    if address is None and None in own.values():
        raise UsageError("give the whole new address: --address JSON, or --street --city --state --zip")
    body = {"new_address": _address(address, own), "updated_by": updated_by}
    _ask(api_url, order_id, "update-address", body, as_json)


def approve(
    order_id: OrderId,
    reviewer: Annotated[str, typer.Option("--reviewer", default_factory=_user)],
    as_json: AsJson = False,
    api_url: ApiUrl = None,
) -> None:
    """Approve an order in its review."""
    _ask(api_url, order_id, "approve", {"reviewer": reviewer}, as_json)


def reject(
    order_id: OrderId,
    reason: Annotated[str, typer.Option("--reason")],
    reviewer: Annotated[str, typer.Option("--reviewer", default_factory=_user)],
    as_json: AsJson = False,
    api_url: ApiUrl = None,
) -> None:
    """Reject an order in its review; nothing is charged."""
    _ask(api_url, order_id, "reject", {"reviewer": reviewer, "reason": reason}, as_json)


def try_order(
    order_id: OrderId,
    address: AddressJson = None,
    item: Items = None,
    review: Review = ReviewMode.AUTO,
    run_id: RunId = None,
    as_json: AsJson = False,
    api_url: ApiUrl = None,
) -> None:
    """Start an order and show it live; exits 0 only when it completed within the limit, else 3."""
    body = _start_body(_address(address, {}), item, None, review, run_id)
    with connect(api_url) as api:
        if api.post(f"/orders/{order_id}/start", body)["status"] != "started":
            raise OrderConflict(f"order {order_id} has been started before; a test needs a new one")
        last = _last(_watch(api, order_id)) if as_json else _shown_live(api, order_id)
    if as_json:
        print_json(last)
    if last is None or last["status"] == "running":
        print_error(f"{order_id} has no outcome yet, well past its deadline")
    if last is None or last["status"] != "completed" or not last["within_limit"]:
        raise typer.Exit(ExitCode.LIMIT_BREACHED)


def _shown_live(api: RestClient, order_id: str) -> Json | None:
    if not console.is_terminal:
        return _shown_line_by_line(api, order_id)
    last = None
    with Live(console=console, auto_refresh=False) as live:
        for last in _watch(api, order_id):
            live.update(order_panel(last), refresh=True)
    return last


def _shown_line_by_line(api: RestClient, order_id: str) -> Json | None:
    """For pipes and logs: a line a change of state, then the whole order."""
    last = None
    for each in _watch(api, order_id):
        if last is None or last["state"] != each["state"]:
            echo(f"{each['updated_at']} {each['state']}")
        last = each
    if last is not None:
        console.print(order_panel(last))
    return last


def _watch(api: RestClient, order_id: str) -> Iterator[Json]:
    """The order's status again and again until its outcome, or until it is hopeless.

    The API may be away meanwhile: that is what the order is tested against.
    """
    time_budget = Settings.load().order_deadline_seconds + GRACE_SECONDS
    not_after = time.monotonic() + time_budget
    while time.monotonic() < not_after:
        try:
            answer = api.get(f"/orders/{order_id}/status")
        except ServiceUnavailable:
            time.sleep(WATCH_SECONDS)
            continue
        yield answer
        if answer["status"] != "running":
            return
        time.sleep(WATCH_SECONDS)


def _last(statuses: Iterator[Json]) -> Json | None:
    return next(iter(deque(statuses, maxlen=1)), None)


def _ask(api_url: str | None, order_id: str, signal: str, body: Json, as_json: bool) -> None:
    with connect(api_url) as api:
        answer = api.post(f"/orders/{order_id}/signals/{signal}", body)
    if as_json:
        print_json(answer)
    else:
        echo(f"{order_id}: {answer['message']}")


def _start_body(
    address: Json, items: list[str] | None, payment_id: str | None, review: ReviewMode, run_id: str | None
) -> Json:
    body: Json = {"initial_address": address, "review": review.value}
    if items:
        body["items"] = [_item(text) for text in items]
    if payment_id is not None:
        body["payment_id"] = payment_id
    if run_id is not None:
        body["run_id"] = run_id
    return body


def _item(text: str) -> Json:
    parts = text.rsplit(":", 2)
    if len(parts) != 3 or not parts[1].isdecimal() or not parts[2].isdecimal():
        raise UsageError(f"--item {text}: must be SKU:QUANTITY:CENTS, for example CUP-1:2:1250")
    return {"sku": parts[0], "quantity": int(parts[1]), "unit_price_cents": int(parts[2])}


def _address(text: str | None, own: dict[str, str | None]) -> Json:
    """The address in `text`, or the sample one, with the parts given one by one."""
    address: Json = dict(SAMPLE_ADDRESS)
    if text is not None:
        address = _read_json(text)
    return address | {part: value for part, value in own.items() if value is not None}


def _read_json(text: str) -> Json:
    try:
        value: Any = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise UsageError("--address must be a JSON object with street, city, state and zip")
    return value
