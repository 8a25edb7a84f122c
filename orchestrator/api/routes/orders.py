"""Routes of orders: start, status, history, list, and the four requests to a running order."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query
from starlette.requests import Request as HttpRequest

from db.currencies import DEFAULT_CURRENCY
from db.domain import SAMPLE_ITEMS, ExecutionMode, Item, ReviewMode, State, Step
from db.read_models import order_details
from orchestrator.api.context import Context, Ctx
from orchestrator.api.middleware.auth import caller_of
from orchestrator.api.order_service import start_request_id
from orchestrator.api.order_updates import Request
from orchestrator.api.problem_details import error_responses
from orchestrator.api.schemas import requests, responses
from orchestrator.api.schemas.pagination import cursor_of, parse_cursor
from orchestrator.api.timeouts import with_timeout
from orchestrator.errors import OrderUnknown
from orchestrator.messages.ids import order_workflow_id
from orchestrator.messages.orders import OrderRequest
from orchestrator.messages.requests import ApproveOrder, CancelOrder, RejectOrder, UpdateAddress

router = APIRouter(prefix="/orders", tags=["orders"], dependencies=[Depends(requests.require_single_values)])

OrderIdPath = Annotated[requests.OrderId, Path(description="1 to 64 letters, digits, `-` or `_`.")]


@router.post(
    "/{order_id}/start",
    responses=error_responses(409, 413),
    summary="Start an order",
)
async def start(
    order_id: OrderIdPath,
    body: requests.StartBody,
    context: Ctx,
    key: requests.IdempotencyKey = None,
) -> responses.StartResponse:
    """Start an order. Idempotent: the same request again returns `already_started`, or with the same
    Idempotency-Key the first response. The same id with other content returns 409."""
    order = _order_request(order_id, body, context)
    is_new = await context.order_service.start(replace(order, start_request_id=start_request_id(key)))
    return responses.StartResponse(
        workflow_id=order_workflow_id(order_id),
        order_id=order_id,
        status="started" if is_new else "already_started",
        message="the order is accepted" if is_new else "the order was accepted before",
    )


@router.get("/{order_id}/status", responses=error_responses(404), summary="Get the status")
async def status(
    order_id: OrderIdPath, query: Annotated[requests.StatusQuery, Query()], context: Ctx
) -> responses.OrderStatusResponse:
    """Return the current state of the order and its failed attempts. `wait` makes it a long poll for the
    outcome."""
    current = await _status(order_id, context)
    if query.wait > 0 and current.status == "running":
        await context.outcomes.wait(order_id, min(query.wait, requests.MAX_WAIT_SECONDS))
        current = await _status(order_id, context)
    return current


@router.get("/{order_id}/history", responses=error_responses(404), summary="List all events")
async def history(order_id: OrderIdPath, context: Ctx) -> responses.HistoryResponse:
    """Return every event of the order, oldest first."""
    events = await with_timeout(order_details.history(context.database, order_id))
    if events is None:
        await _status_in_temporal(order_id, context)
        events = []
    return responses.HistoryResponse.model_validate({"order_id": order_id, "events": events})


@router.get("", responses=error_responses(), summary="List orders, newest first")
async def list_orders(
    query: Annotated[requests.ListQuery, Query()], context: Ctx
) -> responses.OrderListResponse:
    """Return a page of orders. `next_cursor` is the `cursor` of the next page, or null on the last one."""
    orders = await with_timeout(
        order_details.orders(
            context.database,
            state=query.state,
            run_id=query.run_id,
            after=parse_cursor(query.cursor),
            limit=query.limit + 1,
        )
    )
    page = orders[: query.limit]
    has_more = len(orders) > query.limit
    return responses.OrderListResponse(
        orders=[responses.OrderSummaryResponse.of(order) for order in page],
        next_cursor=cursor_of(page[-1]) if has_more else None,
    )


_REQUEST: dict[str, Any] = {"responses": error_responses(404, 409, 413)}


def _key_name(request: HttpRequest) -> str | None:
    return caller_of(request)[0]


KeyName = Annotated[str | None, Depends(_key_name)]
"""The name of the request's API key. It replaces the name in the body, so that a key cannot sign as
another person."""


@router.post("/{order_id}/signals/cancel", summary="Cancel", **_REQUEST)
async def cancel(
    order_id: OrderIdPath,
    body: requests.CancelBody,
    context: Ctx,
    key_name: KeyName,
    key: requests.IdempotencyKey = None,
) -> responses.OrderRequestResponse:
    """Cancel the order, until its package is dispatched. A charge is refunded."""
    return await _send(order_id, CancelOrder(body.reason, key_name or body.cancelled_by), context, key)


@router.post("/{order_id}/signals/update-address", summary="Change the address", **_REQUEST)
async def update_address(
    order_id: OrderIdPath,
    body: requests.UpdateAddressBody,
    context: Ctx,
    key_name: KeyName,
    key: requests.IdempotencyKey = None,
) -> responses.OrderRequestResponse:
    """Change the delivery address, until the package is dispatched."""
    address = body.new_address.to_address()
    change = UpdateAddress(address, key_name or body.updated_by, body.address_version)
    return await _send(order_id, change, context, key)


@router.post("/{order_id}/signals/approve", summary="Approve", **_REQUEST)
async def approve(
    order_id: OrderIdPath,
    body: requests.ApproveBody,
    context: Ctx,
    key_name: KeyName,
    key: requests.IdempotencyKey = None,
) -> responses.OrderRequestResponse:
    """Approve the order, during its review or before."""
    return await _send(order_id, ApproveOrder(key_name or body.reviewer), context, key)


@router.post("/{order_id}/signals/reject", summary="Reject", **_REQUEST)
async def reject(
    order_id: OrderIdPath,
    body: requests.RejectBody,
    context: Ctx,
    key_name: KeyName,
    key: requests.IdempotencyKey = None,
) -> responses.OrderRequestResponse:
    """Reject the order, until it is approved. Nothing is charged."""
    return await _send(order_id, RejectOrder(key_name or body.reviewer, body.reason), context, key)


async def _send(
    order_id: str, request: Request, context: Context, key: str | None
) -> responses.OrderRequestResponse:
    result = await context.order_service.send_request(order_id, request, key)
    return responses.OrderRequestResponse(
        workflow_id=order_workflow_id(order_id),
        order_id=order_id,
        state=result.state,
        message=result.message,
    )


async def _status(order_id: str, context: Context) -> responses.OrderStatusResponse:
    order = await with_timeout(order_details.order(context.database, order_id))
    if order is not None:
        return responses.OrderStatusResponse.of(order)
    return await _status_in_temporal(order_id, context)


async def _status_in_temporal(order_id: str, context: Context) -> responses.OrderStatusResponse:
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
        currency=DEFAULT_CURRENCY,
        accepted_at=started.accepted_at,
        last_event_at=started.accepted_at,
        deadline_at=started.accepted_at + limit,
        completion_ms=None,
        within_limit=None,
    )
    return responses.OrderStatusResponse.of(order_details.StoredOrder(summary, [], {}, [], "", None, None, 1))


def _order_request(order_id: str, body: requests.StartBody, context: Context) -> OrderRequest:
    settings = context.settings
    now = datetime.now(UTC)
    requested_at = body.requested_at or now
    return OrderRequest(
        order_id=order_id,
        requested_at=max(min(requested_at, now), now - timedelta(days=1)),
        initial_address=body.initial_address.to_address(),
        items=[Item(**item.model_dump()) for item in body.items] if body.items else list(SAMPLE_ITEMS),
        payment_id=body.payment_id or f"pay-{order_id}",
        review=ReviewMode(body.review),
        execution=ExecutionMode(body.execution) if body.execution else settings.order_execution,
        run_id=body.run_id,
        auto_review_seconds=settings.auto_review_seconds,
        limit_seconds=settings.order_deadline_seconds,
        shipping_task_queue=settings.shipping_task_queue,
        currency=body.currency,
        payment_method=body.payment_method,
        time_needs=context.time_needs,
    )
