"""Starting orders, and passing people's requests on to them: what the API asks of Temporal."""

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
from orchestrator.api.timeouts import database_timeout, temporal_timeout, while_alive, within
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
)
from orchestrator.settings import Settings
from orchestrator.temporal_client import is_not_ready, temporal_errors
from orchestrator.workflow_ids import order_workflow_id
from orchestrator.workflows.step_execution import WORKFLOW_TASK_TIMEOUT

Request = CancelOrder | UpdateAddress | ApproveOrder | RejectOrder

LAST_RESORT = timedelta(hours=1)
"""Beyond the limit, the server ends a workflow that nothing else has ended. It runs no code then, so
this is far behind the deadline that the workflow keeps by itself."""

CALL_TIMEOUT = timedelta(seconds=1)
NOT_READY_PAUSE_SECONDS = 0.1
ANSWER_TIMEOUT = timedelta(seconds=10)
"""A request waits for a worker, which may take long; whether Temporal is there at all is known sooner."""

_UPDATES: dict[type[Request], str] = {
    CancelOrder: "cancel_order",
    UpdateAddress: "update_address",
    ApproveOrder: "approve_order",
    RejectOrder: "reject_order",
}


@dataclass(frozen=True)
class Acceptance:
    """A workflow that Temporal has: when it began, what its start asked for, whether it still runs."""

    accepted_at: datetime
    fingerprint: str | None
    run_id: str | None
    is_running: bool


class Lifecycle:
    """Raises ServiceUnavailable whenever Temporal or the books do not answer in under 2 s."""

    def __init__(self, settings: Settings, database: Database, client: Client, admission: Admission) -> None:
        self._settings = settings
        self._database = database
        self._client = client
        self._admission = admission

    async def start(self, order: OrderRequest) -> bool:
        """Starts an order. Returns False when this very order had been started before.

        Raises RequestMalformed, OrderConflict when another order has the id or the payment id, or
        Overloaded when the order would not keep its limit.
        """
        if problems := order.validation_errors():
            raise RequestMalformed("; ".join(problems))
        wanted = order.fingerprint
        check = await within(order_details.start_check(self._database, order.order_id, order.payment_id))
        if check.fingerprint is not None:
            _must_match(check.fingerprint, wanted)
            return False
        if check.payment_owner is not None:
            raise OrderConflict(f"payment {order.payment_id} belongs to another order")
        try:
            self._admission.admit(order.order_id)
        except Overloaded:
            # A repeat of what was accepted is answered so, however much there is to do.
            if self._admission.may_have_started(order.order_id) and await self._is_known(order, wanted):
                return False
            raise
        try:
            await self._start_workflow(order, wanted)
        except WorkflowAlreadyStartedError:
            # The books may not have it yet, or never will when it was started past this API.
            if not await self._is_known(order, wanted):
                raise OrderConflict from None
            return False
        except ServiceUnavailable:
            self._admission.failed(order.order_id)
            raise
        return True

    async def _is_known(self, order: OrderRequest, wanted: str) -> bool:
        """Whether Temporal has this order. Raises OrderConflict when it has another one of the same id."""
        earlier = await self.acceptance(order.order_id)
        if earlier is not None:
            _must_match(earlier.fingerprint, wanted)
        return earlier is not None

    async def _start_workflow(self, order: OrderRequest, wanted: str) -> None:
        memo = {"fingerprint": wanted} | ({"run_id": order.run_id} if order.run_id else {})
        with temporal_errors():
            async with _bounded(CALL_TIMEOUT):
                await self._client.start_workflow(
                    "OrderWorkflow",
                    order,
                    id=order_workflow_id(order.order_id),
                    task_queue=self._settings.order_task_queue,
                    task_timeout=WORKFLOW_TASK_TIMEOUT,
                    execution_timeout=self._settings.order_limit + LAST_RESORT,
                    id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
                    id_conflict_policy=WorkflowIDConflictPolicy.FAIL,
                    memo=memo,
                    rpc_timeout=CALL_TIMEOUT,
                )

    async def acceptance(self, order_id: str) -> Acceptance | None:
        """What Temporal knows of an order, or None."""
        handle = self._client.get_workflow_handle(order_workflow_id(order_id))
        try:
            with temporal_errors():
                async with _bounded(CALL_TIMEOUT):
                    description = await handle.describe(rpc_timeout=CALL_TIMEOUT)
        except RPCError as error:
            if error.status is RPCStatusCode.NOT_FOUND:
                return None
            raise
        started = description.start_time
        return Acceptance(
            accepted_at=started.replace(microsecond=started.microsecond // 1000 * 1000),
            fingerprint=await description.memo_value("fingerprint", None),
            run_id=await description.memo_value("run_id", None),
            is_running=description.status is WorkflowExecutionStatus.RUNNING,
        )

    async def ask(self, order_id: str, request: Request) -> RequestResult:
        """Has a running order answer a request; returns an answer that accepts it.

        Raises TooLate with the reason it was refused for, OrderUnknown, or ServiceUnavailable: as soon as PostgreSQL
        or Temporal is away, or when no answer came within 10 s (the request may still be carried out then).
        """
        try:
            answer = await self._answer(order_id, request)
        except RPCError as error:
            if error.status not in (RPCStatusCode.NOT_FOUND, RPCStatusCode.FAILED_PRECONDITION):
                raise
            raise await self._why_nobody_answers(order_id) from error
        except WorkflowUpdateFailedError as error:
            if isinstance(error.cause, ApplicationError) and error.cause.type == INVALID_REQUEST:
                raise RequestMalformed(error.cause.message) from error
            # The workflow ended while the request was on its way to it.
            raise await self._why_nobody_answers(order_id) from error
        if not answer.accepted:
            raise TooLate(answer.message)
        return answer

    async def _answer(self, order_id: str, request: Request) -> RequestResult:
        handle = self._client.get_workflow_handle(order_workflow_id(order_id))

        async def ask() -> RequestResult:
            while True:
                try:
                    answer: RequestResult = await handle.execute_update(
                        _UPDATES[type(request)],
                        request,
                        result_type=RequestResult,
                        rpc_timeout=ANSWER_TIMEOUT,
                    )
                except RPCError as error:
                    if not is_not_ready(error):
                        raise
                    await asyncio.sleep(NOT_READY_PAUSE_SECONDS)
                else:
                    return answer

        seconds = ANSWER_TIMEOUT.total_seconds()
        try:
            with temporal_errors():
                return await while_alive(
                    ask(), temporal_timeout(self._client), database_timeout(self._database), seconds=seconds
                )
        except DatabaseError as error:
            raise type(error)(f"{error} The request may still be carried out.") from error
        except (TimeoutError, RPCTimeoutOrCancelledError) as error:
            raise ServiceUnavailable(
                "no worker has answered for the order yet; the request may still be carried out"
            ) from error

    async def _why_nobody_answers(self, order_id: str) -> OrderUnknown | TooLate:
        reading = await within(order_details.order(self._database, order_id))
        if reading is not None and reading.summary.state.is_terminal:
            return TooLate(f"too late: the order is {reading.summary.state}")
        if reading is not None:
            return TooLate("too late: the order's workflow has ended")
        return OrderUnknown(f"there is no order {order_id}")


def order_request(
    settings: Settings, order_id: str, *, requested_at: datetime | None, **content: Any
) -> OrderRequest:
    """An order as the workflow takes it; `content` are fields of OrderRequest.

    `requested_at` is kept within the last day: the future counts as now.
    """
    now = datetime.now(UTC)
    due = now if requested_at is None else max(min(requested_at, now), now - timedelta(days=1))
    return OrderRequest(
        order_id=order_id,
        requested_at=due.astimezone(UTC),
        auto_review_seconds=settings.auto_review_seconds,
        limit_seconds=settings.order_deadline_seconds,
        shipping_task_queue=settings.shipping_task_queue,
        **content,
    )


def _must_match(known: str | None, wanted: str) -> None:
    if known != wanted:
        raise OrderConflict("an order with this id and other content exists")


@asynccontextmanager
async def _bounded(timeout: timedelta) -> AsyncIterator[None]:
    """Bounds all the attempts that the SDK makes of one call, each of which has `timeout` for itself."""
    try:
        async with asyncio.timeout(timeout.total_seconds() * 1.5):
            yield
    except TimeoutError as error:
        raise TemporalUnavailable from error
