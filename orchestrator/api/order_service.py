"""Starts order workflows and sends requests to them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta

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
from orchestrator import errors, messages
from orchestrator.api.admission import Admission
from orchestrator.api.timeouts import while_available, with_timeout
from orchestrator.settings import Settings
from orchestrator.temporal_client import is_not_ready, temporal_errors
from orchestrator.workflows.step_execution import WORKFLOW_TASK_TIMEOUT

Request = messages.CancelOrder | messages.UpdateAddress | messages.ApproveOrder | messages.RejectOrder

EXECUTION_TIMEOUT_MARGIN = timedelta(hours=1)
"""The execution timeout is this much later than the deadline. It ends a workflow without running its code, so
the workflow's own deadline timer must always fire first."""

RPC_TIMEOUT = timedelta(seconds=1)
NOT_READY_PAUSE_SECONDS = 0.1
UPDATE_TIMEOUT = timedelta(seconds=10)
"""An update waits for a worker. A Temporal server that does not respond is detected earlier, by a check."""

_UPDATES: dict[type[Request], str] = {
    messages.CancelOrder: "cancel_order",
    messages.UpdateAddress: "update_address",
    messages.ApproveOrder: "approve_order",
    messages.RejectOrder: "reject_order",
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

    async def start(self, order: messages.OrderRequest) -> bool:
        """Start an order. Returns False when the same order was started before.

        Raises RequestMalformed, OrderConflict when another order has the order id or the payment id, and
        Overloaded when the order would miss its deadline.
        """
        if malformed := order.validation_errors():
            raise errors.RequestMalformed("; ".join(malformed))
        wanted = order.fingerprint
        check = await with_timeout(
            order_details.start_conflicts(self._database, order.order_id, order.payment_id)
        )
        if check.fingerprint is not None:
            _require_match(check.fingerprint, wanted)
            return False
        if check.payment_owner is not None:
            raise errors.OrderConflict(f"payment {order.payment_id} belongs to another order")
        try:
            self._admission.admit(order.order_id)
        except errors.Overloaded:
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
                raise errors.OrderConflict from None
            return False
        except errors.ServiceUnavailable:
            self._admission.record_failed_start(order.order_id)
            raise
        return True

    async def _is_started(self, order: messages.OrderRequest, wanted: str) -> bool:
        """Return whether Temporal has this order. Raises OrderConflict when another order has its id."""
        started = await self.workflow_start(order.order_id)
        if started is not None:
            _require_match(started.fingerprint, wanted)
        return started is not None

    async def _start_workflow(self, order: messages.OrderRequest, wanted: str) -> None:
        memo = {"fingerprint": wanted} | ({"run_id": order.run_id} if order.run_id else {})
        async with _temporal_call():
            await self._client.start_workflow(
                "OrderWorkflow",
                order,
                id=messages.order_workflow_id(order.order_id),
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
        handle = self._client.get_workflow_handle(messages.order_workflow_id(order_id))
        try:
            async with _temporal_call():
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

    async def send_request(self, order_id: str, request: Request) -> messages.RequestResult:
        """Send a request to a running order and return its result, which is accepted.

        Raises TooLate with the reason when the order rejects the request, AddressOutdated when the request is
        based on a replaced address, RequestMalformed, OrderUnknown, and ServiceUnavailable when PostgreSQL or
        Temporal is unavailable or no worker responds within 10 s. The order may still process the request
        after ServiceUnavailable.
        """
        try:
            result = await self._execute_update(order_id, request)
        except RPCError as error:
            if error.status not in (RPCStatusCode.NOT_FOUND, RPCStatusCode.FAILED_PRECONDITION):
                raise
            raise await self._no_running_order(order_id) from error
        except WorkflowUpdateFailedError as error:
            if isinstance(error.cause, ApplicationError) and error.cause.type == messages.INVALID_REQUEST:
                raise errors.RequestMalformed(error.cause.message) from error
            # The workflow ended before it processed the update.
            raise await self._no_running_order(order_id) from error
        if result.is_outdated:
            raise errors.AddressOutdated(result.message)
        if not result.accepted:
            raise errors.TooLate(result.message)
        return result

    async def _execute_update(self, order_id: str, request: Request) -> messages.RequestResult:
        try:
            with temporal_errors():
                return await while_available(
                    self._update_when_ready(order_id, request),
                    self._database,
                    self._client,
                    seconds=UPDATE_TIMEOUT.total_seconds(),
                )
        except errors.DatabaseError as error:
            raise type(error)(f"{error} The order may still process the request.") from error
        except (TimeoutError, RPCTimeoutOrCancelledError) as error:
            raise errors.ServiceUnavailable(
                "no worker has responded for the order; it may still process the request"
            ) from error

    async def _update_when_ready(self, order_id: str, request: Request) -> messages.RequestResult:
        """Execute the update, and retry while the server rejects it because a workflow task has failed."""
        handle = self._client.get_workflow_handle(messages.order_workflow_id(order_id))
        while True:
            try:
                result: messages.RequestResult = await handle.execute_update(
                    _UPDATES[type(request)],
                    request,
                    result_type=messages.RequestResult,
                    rpc_timeout=UPDATE_TIMEOUT,
                )
            except RPCError as error:
                if not is_not_ready(error):
                    raise
                await asyncio.sleep(NOT_READY_PAUSE_SECONDS)
            else:
                return result

    async def _no_running_order(self, order_id: str) -> errors.OrderUnknown | errors.TooLate:
        """Return the error for an order without a running workflow."""
        order = await with_timeout(order_details.order(self._database, order_id))
        if order is None:
            return errors.OrderUnknown(f"there is no order {order_id}")
        if order.summary.state.is_terminal:
            return errors.TooLate(f"too late: the order is {order.summary.state}")
        return errors.TooLate("too late: the order's workflow has ended")


def _require_match(known: str | None, wanted: str) -> None:
    if known != wanted:
        raise errors.OrderConflict("an order with this id and other content exists")


@asynccontextmanager
async def _temporal_call() -> AsyncIterator[None]:
    """Limit the total time of a call: the SDK retries it, and each retry has the RPC timeout for itself."""
    try:
        with temporal_errors():
            async with asyncio.timeout(RPC_TIMEOUT.total_seconds() * 1.5):
                yield
    except TimeoutError as error:
        raise errors.TemporalUnavailable from error
