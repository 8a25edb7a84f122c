"""Routes of orders: start, look, and ask for something while they run."""

from datetime import timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query
from starlette.responses import JSONResponse

from db.domain import ORDER_ID_PATTERN, SAMPLE_ITEMS, Address, Item, ReviewMode
from db.read_models import order_details
from orchestrator.api import views
from orchestrator.api.context import Context, Ctx
from orchestrator.api.models import (
    MAX_HELD_SECONDS,
    AddressBody,
    ApproveBody,
    CancelBody,
    HistoryAnswer,
    ListQuery,
    OrderListAnswer,
    OrderStatusAnswer,
    RejectBody,
    RequestAnswer,
    StartAnswer,
    StartBody,
    StatusQuery,
    UpdateAddressBody,
)
from orchestrator.api.order_service import Request, order_request
from orchestrator.api.problem_details import responses
from orchestrator.api.timeouts import within
from orchestrator.errors import OrderUnknown
from orchestrator.messages import ApproveOrder, CancelOrder, RejectOrder, UpdateAddress
from orchestrator.workflow_ids import order_workflow_id

router = APIRouter(prefix="/orders", tags=["orders"])

OrderIdPath = Annotated[
    str, Path(pattern=ORDER_ID_PATTERN, description="1 to 64 letters, digits, `-` or `_`.")
]


@router.post(
    "/{order_id}/start",
    response_model=StartAnswer,
    responses=responses(409, 413, 429),
    summary="Start an order",
)
async def start(order_id: OrderIdPath, body: StartBody, context: Ctx) -> JSONResponse:
    """Starts an order. The same request again changes nothing and is answered `already_started`; the same
    id with other content is refused."""
    items = [Item(**item.model_dump()) for item in body.items] if body.items else list(SAMPLE_ITEMS)
    order = order_request(
        context.settings,
        order_id,
        requested_at=body.requested_at,
        initial_address=_address(body.initial_address),
        items=items,
        payment_id=body.payment_id or f"pay-{order_id}",
        review=ReviewMode(body.review),
        run_id=body.run_id,
    )
    is_new = await context.lifecycle.start(order)
    return JSONResponse(
        {
            "workflow_id": order_workflow_id(order_id),
            "order_id": order_id,
            "status": "started" if is_new else "already_started",
            "message": "the order is accepted" if is_new else "the order had been accepted before",
        }
    )


@router.get(
    "/{order_id}/status",
    response_model=OrderStatusAnswer,
    responses=responses(404),
    summary="Where it stands",
)
async def status(order_id: OrderIdPath, query: Annotated[StatusQuery, Query()], context: Ctx) -> JSONResponse:
    """The order as it stands, with its failed attempts while it runs. `wait` holds the answer until the
    outcome."""
    answer = await _status(order_id, context)
    if query.wait > 0 and answer["status"] == "running":
        await context.watch.until_finished(order_id, min(query.wait, MAX_HELD_SECONDS))
        answer = await _status(order_id, context)
    return JSONResponse(answer)


@router.get(
    "/{order_id}/history", response_model=HistoryAnswer, responses=responses(404), summary="Every event"
)
async def history(order_id: OrderIdPath, context: Ctx) -> JSONResponse:
    """Every event of the order, oldest first."""
    events = await within(order_details.history(context.database, order_id))
    if events is None:
        await _just_accepted(order_id, context)
        events = []
    return JSONResponse({"order_id": order_id, "events": [views.event(told) for told in events]})


@router.get("", response_model=OrderListAnswer, responses=responses(), summary="Orders, newest first")
async def list_orders(query: Annotated[ListQuery, Query()], context: Ctx) -> JSONResponse:
    """A page of orders; `next_cursor` asks for the next one, and is null on the last."""
    orders = await within(
        order_details.orders(
            context.database,
            state=query.state,
            run_id=query.run_id,
            after=views.page_key(query.cursor),
            limit=query.limit + 1,
        )
    )
    page = orders[: query.limit]
    has_more = len(orders) > query.limit
    return JSONResponse(
        {
            "orders": [views.order_summary(order) for order in page],
            "next_cursor": views.cursor(page[-1]) if has_more else None,
        }
    )


_REQUEST: dict[str, Any] = {"response_model": RequestAnswer, "responses": responses(404, 409, 413)}


@router.post("/{order_id}/signals/cancel", summary="Cancel", **_REQUEST)
async def cancel(order_id: OrderIdPath, body: CancelBody, context: Ctx) -> JSONResponse:
    """Cancels the order, until its parcel is dispatched; what was charged is refunded."""
    return await _ask(order_id, CancelOrder(body.reason, body.cancelled_by), context)


@router.post("/{order_id}/signals/update-address", summary="Change the address", **_REQUEST)
async def update_address(order_id: OrderIdPath, body: UpdateAddressBody, context: Ctx) -> JSONResponse:
    """Changes where the parcel goes, until it is dispatched."""
    return await _ask(order_id, UpdateAddress(_address(body.new_address), body.updated_by), context)


@router.post("/{order_id}/signals/approve", summary="Approve", **_REQUEST)
async def approve(order_id: OrderIdPath, body: ApproveBody, context: Ctx) -> JSONResponse:
    """Approves the order in its review, or before it."""
    return await _ask(order_id, ApproveOrder(body.reviewer), context)


@router.post("/{order_id}/signals/reject", summary="Reject", **_REQUEST)
async def reject(order_id: OrderIdPath, body: RejectBody, context: Ctx) -> JSONResponse:
    """Rejects the order, until it is approved; nothing is charged."""
    return await _ask(order_id, RejectOrder(body.reviewer, body.reason), context)


async def _ask(order_id: str, request: Request, context: Context) -> JSONResponse:
    answer = await context.lifecycle.ask(order_id, request)
    return JSONResponse(
        {
            "workflow_id": order_workflow_id(order_id),
            "order_id": order_id,
            "accepted": True,
            "state": answer.state,
            "message": answer.message,
        }
    )


async def _status(order_id: str, context: Context) -> views.Json:
    reading = await within(order_details.order(context.database, order_id))
    if reading is not None:
        return views.order_status(reading)
    return await _just_accepted(order_id, context)


async def _just_accepted(order_id: str, context: Context) -> views.Json:
    """The status of an order that no worker has taken into the books yet. Raises OrderUnknown."""
    acceptance = await context.lifecycle.acceptance(order_id)
    if acceptance is None or not acceptance.is_running:
        raise OrderUnknown(f"there is no order {order_id}")
    limit = timedelta(seconds=context.settings.order_deadline_seconds)
    accepted_at = acceptance.accepted_at
    return views.just_accepted(order_id, acceptance.run_id, accepted_at, accepted_at + limit)


def _address(body: AddressBody) -> Address:
    return Address(**body.model_dump())
