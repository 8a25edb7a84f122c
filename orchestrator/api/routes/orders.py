"""Routes of orders: start, status, history, list, and the four requests to a running order."""

from datetime import timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query

from db.domain import ORDER_ID_PATTERN, SAMPLE_ITEMS, Address, Item, ReviewMode, State, Step
from db.read_models import order_details
from orchestrator.api.context import Context, Ctx
from orchestrator.api.order_service import Request, order_request
from orchestrator.api.problem_details import responses
from orchestrator.api.schemas.pagination import cursor, page_key
from orchestrator.api.schemas.requests import (
    MAX_WAIT_SECONDS,
    AddressBody,
    ApproveBody,
    CancelBody,
    ListQuery,
    RejectBody,
    StartBody,
    StatusQuery,
    UpdateAddressBody,
)
from orchestrator.api.schemas.responses import (
    HistoryResponse,
    OrderListResponse,
    OrderRequestResponse,
    OrderStatusResponse,
    OrderSummaryResponse,
    StartResponse,
)
from orchestrator.api.timeouts import with_timeout
from orchestrator.errors import OrderUnknown
from orchestrator.messages import ApproveOrder, CancelOrder, RejectOrder, UpdateAddress, order_workflow_id

router = APIRouter(prefix="/orders", tags=["orders"])

OrderIdPath = Annotated[
    str, Path(pattern=ORDER_ID_PATTERN, description="1 to 64 letters, digits, `-` or `_`.")
]


@router.post(
    "/{order_id}/start",
    responses=responses(409, 413, 429),
    summary="Start an order",
)
async def start(order_id: OrderIdPath, body: StartBody, context: Ctx) -> StartResponse:
    """Start an order. Idempotent: the same request again returns `already_started`. The same id with other
    content returns 409."""
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
    is_new = await context.order_service.start(order)
    return StartResponse(
        workflow_id=order_workflow_id(order_id),
        order_id=order_id,
        status="started" if is_new else "already_started",
        message="the order is accepted" if is_new else "the order was accepted before",
    )


@router.get("/{order_id}/status", responses=responses(404), summary="Get the status")
async def status(
    order_id: OrderIdPath, query: Annotated[StatusQuery, Query()], context: Ctx
) -> OrderStatusResponse:
    """Return the current state of the order and its failed attempts. `wait` makes it a long poll for the
    outcome."""
    current = await _status(order_id, context)
    if query.wait > 0 and current.status == "running":
        await context.outcomes.wait(order_id, min(query.wait, MAX_WAIT_SECONDS))
        current = await _status(order_id, context)
    return current


@router.get("/{order_id}/history", responses=responses(404), summary="List all events")
async def history(order_id: OrderIdPath, context: Ctx) -> HistoryResponse:
    """Return every event of the order, oldest first."""
    events = await with_timeout(order_details.history(context.database, order_id))
    if events is None:
        await _status_in_temporal(order_id, context)
        events = []
    return HistoryResponse.model_validate({"order_id": order_id, "events": events})


@router.get("", responses=responses(), summary="List orders, newest first")
async def list_orders(query: Annotated[ListQuery, Query()], context: Ctx) -> OrderListResponse:
    """Return a page of orders. `next_cursor` is the `cursor` of the next page, or null on the last one."""
    orders = await with_timeout(
        order_details.orders(
            context.database,
            state=query.state,
            run_id=query.run_id,
            after=page_key(query.cursor),
            limit=query.limit + 1,
        )
    )
    page = orders[: query.limit]
    has_more = len(orders) > query.limit
    return OrderListResponse(
        orders=[OrderSummaryResponse.of(order) for order in page],
        next_cursor=cursor(page[-1]) if has_more else None,
    )


_REQUEST: dict[str, Any] = {"responses": responses(404, 409, 413)}


@router.post("/{order_id}/signals/cancel", summary="Cancel", **_REQUEST)
async def cancel(order_id: OrderIdPath, body: CancelBody, context: Ctx) -> OrderRequestResponse:
    """Cancel the order, until its package is dispatched. A charge is refunded."""
    return await _send(order_id, CancelOrder(body.reason, body.cancelled_by), context)


@router.post("/{order_id}/signals/update-address", summary="Change the address", **_REQUEST)
async def update_address(
    order_id: OrderIdPath, body: UpdateAddressBody, context: Ctx
) -> OrderRequestResponse:
    """Change the delivery address, until the package is dispatched."""
    return await _send(order_id, UpdateAddress(_address(body.new_address), body.updated_by), context)


@router.post("/{order_id}/signals/approve", summary="Approve", **_REQUEST)
async def approve(order_id: OrderIdPath, body: ApproveBody, context: Ctx) -> OrderRequestResponse:
    """Approve the order, during its review or before."""
    return await _send(order_id, ApproveOrder(body.reviewer), context)


@router.post("/{order_id}/signals/reject", summary="Reject", **_REQUEST)
async def reject(order_id: OrderIdPath, body: RejectBody, context: Ctx) -> OrderRequestResponse:
    """Reject the order, until it is approved. Nothing is charged."""
    return await _send(order_id, RejectOrder(body.reviewer, body.reason), context)


async def _send(order_id: str, request: Request, context: Context) -> OrderRequestResponse:
    result = await context.order_service.send_request(order_id, request)
    return OrderRequestResponse(
        workflow_id=order_workflow_id(order_id), order_id=order_id, state=result.state, message=result.message
    )


async def _status(order_id: str, context: Context) -> OrderStatusResponse:
    order = await with_timeout(order_details.order(context.database, order_id))
    if order is not None:
        return OrderStatusResponse.of(order)
    return await _status_in_temporal(order_id, context)


async def _status_in_temporal(order_id: str, context: Context) -> OrderStatusResponse:
    """Return the status of an order that no worker has recorded. Raises OrderUnknown."""
    started = await context.order_service.workflow_start(order_id)
    if started is None or not started.is_running:
        raise OrderUnknown(f"there is no order {order_id}")
    limit = timedelta(seconds=context.settings.order_deadline_seconds)
    summary = order_details.OrderSummary(
        order_id=order_id,
        run_id=started.run_id,
        state=State.RECEIVED,
        current_step=Step.RECEIVE,
        reason=None,
        amount_cents=0,
        accepted_at=started.accepted_at,
        last_event_at=started.accepted_at,
        deadline_at=started.accepted_at + limit,
        completion_ms=None,
        within_limit=None,
    )
    return OrderStatusResponse.of(order_details.StoredOrder(summary, [], {}, [], "", None))


def _address(body: AddressBody) -> Address:
    return Address(**body.model_dump())
