"""Starts order workflows and sends requests to them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from temporalio.client import (
    Client,
    RPCTimeoutOrCancelledError,
    WorkflowExecutionStatus,
    WorkflowUpdateFailedError,
)
from temporalio.common import WorkflowIDConflictPolicy, WorkflowIDReusePolicy
from temporalio.exceptions import ApplicationError, WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from db.database import Database
from db.read_models import order_details
from orchestrator.api.admission import Admission
from orchestrator.api.timeouts import database_check, temporal_check, while_available, with_timeout
from orchestrator.errors import (
    DatabaseError,
    OrderConflict,
    OrderUnknown,
    Overloaded,
    RequestMalformed,
    ServiceUnavailable,
    TemporalUnavailable,
    TooLate,
)
from orchestrator.messages import (
    INVALID_REQUEST,
    ApproveOrder,
    CancelOrder,
    OrderRequest,
    RejectOrder,
    RequestResult,
    UpdateAddress,
    order_workflow_id,
)
from orchestrator.settings import Settings
from orchestrator.temporal_client import is_not_ready, temporal_errors
from orchestrator.workflows.step_execution import WORKFLOW_TASK_TIMEOUT

Request = CancelOrder | UpdateAddress | ApproveOrder | RejectOrder

EXECUTION_TIMEOUT_MARGIN = timedelta(hours=1)
"""The execution timeout is this much later than the deadline. It ends a workflow without running its code, so
the workflow's own deadline timer must always fire first."""

RPC_TIMEOUT = timedelta(seconds=1)
NOT_READY_PAUSE_SECONDS = 0.1
UPDATE_TIMEOUT = timedelta(seconds=10)
"""An update waits for a worker. A Temporal server that does not respond is detected earlier, by a check."""

_UPDATES: dict[type[Request], str] = {
    CancelOrder: "cancel_order",
    UpdateAddress: "update_address",
    ApproveOrder: "approve_order",
    RejectOrder: "reject_order",
}


@dataclass(frozen=True)
class WorkflowStart:
    """What Temporal records about the start of an order's workflow."""

    accepted_at: datetime
    fingerprint: str | None
    run_id: str | None
    is_running: bool


class OrderService:
    """Raises ServiceUnavailable within 2 s when Temporal or the order database does not respond."""

    def __init__(self, settings: Settings, database: Database, client: Client, admission: Admission) -> None:
        self._settings = settings
        self._database = database
        self._client = client
        self._admission = admission

    async def start(self, order: OrderRequest) -> bool:
        """Start an order. Returns False when the same order was started before.

        Raises RequestMalformed, OrderConflict when another order has the order id or the payment id, and
        Overloaded when the order would miss its deadline.
        """
        if errors := order.validation_errors():
            raise RequestMalformed("; ".join(errors))
        wanted = order.fingerprint
        check = await with_timeout(
            order_details.start_conflicts(self._database, order.order_id, order.payment_id)
        )
        if check.fingerprint is not None:
            _require_match(check.fingerprint, wanted)
            return False
        if check.payment_owner is not None:
            raise OrderConflict(f"payment {order.payment_id} belongs to another order")
        try:
            self._admission.admit(order.order_id)
        except Overloaded:
            # The repeat of an accepted start succeeds under any load.
            if self._admission.may_have_started(order.order_id) and await self._is_started(order, wanted):
                return False
            raise
        try:
            await self._start_workflow(order, wanted)
        except WorkflowAlreadyStartedError:
            # The order is not in the database yet, or never will be if the workflow was started without this
            # API.
            if not await self._is_started(order, wanted):
                raise OrderConflict from None
            return False
        except ServiceUnavailable:
            self._admission.record_failed_start(order.order_id)
            raise
        return True

    async def _is_started(self, order: OrderRequest, wanted: str) -> bool:
        """Return whether Temporal has this order. Raises OrderConflict when another order has its id."""
        started = await self.workflow_start(order.order_id)
        if started is not None:
            _require_match(started.fingerprint, wanted)
        return started is not None

    async def _start_workflow(self, order: OrderRequest, wanted: str) -> None:
        memo = {"fingerprint": wanted} | ({"run_id": order.run_id} if order.run_id else {})
        with temporal_errors():
            async with _total_timeout(RPC_TIMEOUT):
                await self._client.start_workflow(
                    "OrderWorkflow",
                    order,
                    id=order_workflow_id(order.order_id),
                    task_queue=self._settings.order_task_queue,
                    task_timeout=WORKFLOW_TASK_TIMEOUT,
                    execution_timeout=self._settings.order_limit + EXECUTION_TIMEOUT_MARGIN,
                    id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
                    id_conflict_policy=WorkflowIDConflictPolicy.FAIL,
                    memo=memo,
                    rpc_timeout=RPC_TIMEOUT,
                )

    async def workflow_start(self, order_id: str) -> WorkflowStart | None:
        """Return the start of an order's workflow, or None when Temporal has no such workflow."""
        handle = self._client.get_workflow_handle(order_workflow_id(order_id))
        try:
            with temporal_errors():
                async with _total_timeout(RPC_TIMEOUT):
                    description = await handle.describe(rpc_timeout=RPC_TIMEOUT)
        except RPCError as error:
            if error.status is RPCStatusCode.NOT_FOUND:
                return None
            raise
        started = description.start_time
        return WorkflowStart(
            accepted_at=started.replace(microsecond=started.microsecond // 1000 * 1000),
            fingerprint=await description.memo_value("fingerprint", None),
            run_id=await description.memo_value("run_id", None),
            is_running=description.status is WorkflowExecutionStatus.RUNNING,
        )

    async def send_request(self, order_id: str, request: Request) -> RequestResult:
        """Send a request to a running order and return its result, which is accepted.

        Raises TooLate with the reason when the order rejects the request, RequestMalformed, OrderUnknown, and
        ServiceUnavailable when PostgreSQL or Temporal is unavailable or no worker responds within 10 s. The
        order may still process the request after ServiceUnavailable.
        """
        try:
            result = await self._execute_update(order_id, request)
        except RPCError as error:
            if error.status not in (RPCStatusCode.NOT_FOUND, RPCStatusCode.FAILED_PRECONDITION):
                raise
            raise await self._no_running_order(order_id) from error
        except WorkflowUpdateFailedError as error:
            if isinstance(error.cause, ApplicationError) and error.cause.type == INVALID_REQUEST:
                raise RequestMalformed(error.cause.message) from error
            # The workflow ended before it processed the update.
            raise await self._no_running_order(order_id) from error
        if not result.accepted:
            raise TooLate(result.message)
        return result

    async def _execute_update(self, order_id: str, request: Request) -> RequestResult:
        try:
            with temporal_errors():
                return await while_available(
                    self._update_when_ready(order_id, request),
                    temporal_check(self._client),
                    database_check(self._database),
                    seconds=UPDATE_TIMEOUT.total_seconds(),
                )
        except DatabaseError as error:
            raise type(error)(f"{error} The order may still process the request.") from error
        except (TimeoutError, RPCTimeoutOrCancelledError) as error:
            raise ServiceUnavailable(
                "no worker has responded for the order; it may still process the request"
            ) from error

    async def _update_when_ready(self, order_id: str, request: Request) -> RequestResult:
        """Execute the update, and retry while the server rejects it because a workflow task has failed."""
        handle = self._client.get_workflow_handle(order_workflow_id(order_id))
        while True:
            try:
                result: RequestResult = await handle.execute_update(
                    _UPDATES[type(request)], request, result_type=RequestResult, rpc_timeout=UPDATE_TIMEOUT
                )
            except RPCError as error:
                if not is_not_ready(error):
                    raise
                await asyncio.sleep(NOT_READY_PAUSE_SECONDS)
            else:
                return result

    async def _no_running_order(self, order_id: str) -> OrderUnknown | TooLate:
        """Return the error for an order without a running workflow."""
        order = await with_timeout(order_details.order(self._database, order_id))
        if order is None:
            return OrderUnknown(f"there is no order {order_id}")
        if order.summary.state.is_terminal:
            return TooLate(f"too late: the order is {order.summary.state}")
        return TooLate("too late: the order's workflow has ended")


def order_request(
    settings: Settings, order_id: str, *, requested_at: datetime | None, **content: Any
) -> OrderRequest:
    """Return the workflow input of an order; `content` has fields of OrderRequest.

    Limits `requested_at` to the last 24 hours.
    """
    now = datetime.now(UTC)
    requested = now if requested_at is None else max(min(requested_at, now), now - timedelta(days=1))
    return OrderRequest(
        order_id=order_id,
        requested_at=requested.astimezone(UTC),
        auto_review_seconds=settings.auto_review_seconds,
        limit_seconds=settings.order_deadline_seconds,
        shipping_task_queue=settings.shipping_task_queue,
        **content,
    )


def _require_match(known: str | None, wanted: str) -> None:
    if known != wanted:
        raise OrderConflict("an order with this id and other content exists")


@asynccontextmanager
async def _total_timeout(timeout: timedelta) -> AsyncIterator[None]:
    """Limit the retries of the SDK: each has the RPC timeout for itself."""
    try:
        async with asyncio.timeout(timeout.total_seconds() * 1.5):
            yield
    except TimeoutError as error:
        raise TemporalUnavailable from error
