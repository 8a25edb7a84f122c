"""Starts order workflows and sends requests to them."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from hashlib import sha256

from temporalio.client import (
    Client,
    WorkflowExecutionStatus,
    WorkflowUpdateFailedError,
)
from temporalio.common import WorkflowIDConflictPolicy, WorkflowIDReusePolicy
from temporalio.exceptions import ApplicationError, WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from db.database import Database
from db.domain import RequestResult
from db.read_models import order_details
from orchestrator import errors
from orchestrator.api.admission import Admission
from orchestrator.api.order_updates import UPDATES, OrderUpdates, Request
from orchestrator.api.timeouts import with_timeout
from orchestrator.messages.ids import order_workflow_id
from orchestrator.messages.orders import OrderRequest
from orchestrator.messages.requests import (
    TOO_MANY_REQUESTS,
    UNACCEPTABLE,
    ApproveOrder,
    CancelOrder,
    RejectOrder,
    UpdateAddress,
)
from orchestrator.settings import Settings
from orchestrator.startup.task_queue_claims import claim_task_queues, task_queues_of
from orchestrator.temporal import search_attributes
from orchestrator.temporal.client import temporal_errors
from orchestrator.workflows.step_execution import WORKFLOW_TASK_TIMEOUT

RPC_TIMEOUT = timedelta(seconds=1)


@dataclass(frozen=True)
class WorkflowStart:
    """The start of an order's workflow, as Temporal records it."""

    accepted_at: datetime
    fingerprint: str | None
    run_id: str | None
    request_id: str | None
    is_running: bool


class OrderService:
    """Raises ServiceUnavailable within 2 s when Temporal or the order database does not respond."""

    def __init__(self, settings: Settings, database: Database, client: Client, admission: Admission) -> None:
        self._settings = settings
        self._database = database
        self._client = client
        self._admission = admission
        self._updates = OrderUpdates(client, database)
        self._database_id: str | None = None

    async def start(self, order: OrderRequest) -> bool:
        """Start an order. Returns False when the same order was started before by another request: one with
        another `start_request_id`, or without one.

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
            return order.start_request_id in check.applied_request_ids
        if check.payment_owner is not None:
            raise errors.OrderConflict(f"payment {order.payment_id} belongs to another order")
        try:
            self._admission.admit(order.order_id)
        except errors.Overloaded:
            # A repeated start of an accepted order succeeds under any load.
            if self._admission.may_have_started(order.order_id):
                started = await self._matching_start(order, wanted)
                if started is not None:
                    return _is_same_request(order, started)
            raise
        try:
            await self._start_workflow(order, wanted)
        except WorkflowAlreadyStartedError:
            # The order is not in the database yet, or never will be if the workflow was started without this
            # API.
            started = await self._matching_start(order, wanted)
            if started is None:
                raise errors.OrderConflict from None
            return _is_same_request(order, started)
        except errors.ServiceUnavailable:
            self._admission.record_failed_start(order.order_id)
            raise
        return True

    async def _matching_start(self, order: OrderRequest, wanted: str) -> WorkflowStart | None:
        """Return the start of this order, or None when Temporal does not have it. Raises OrderConflict when
        another order has its id."""
        started = await self.workflow_start(order.order_id)
        if started is not None:
            _require_match(started.fingerprint, wanted)
        return started

    async def _start_workflow(self, order: OrderRequest, wanted: str) -> None:
        memo = {"fingerprint": wanted, "request_id": order.start_request_id}
        async with _temporal_call():
            await self._client.start_workflow(
                "OrderWorkflow",
                replace(order, database_id=await self._claimed_database()),
                id=order_workflow_id(order.order_id),
                task_queue=self._settings.order_task_queue,
                task_timeout=WORKFLOW_TASK_TIMEOUT,
                id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
                id_conflict_policy=WorkflowIDConflictPolicy.FAIL,
                memo={name: value for name, value in memo.items() if value is not None},
                search_attributes=search_attributes.of_run(order.run_id),
                static_summary=order.summary,
                rpc_timeout=RPC_TIMEOUT,
            )

    async def _claimed_database(self) -> str:
        """Return the id of the order database, which has claimed the task queues.

        Raises ServiceUnavailable if a task queue serves another order database: its workers would insert the
        order there.
        """
        if self._database_id is None:
            queues = task_queues_of(self._settings)
            try:
                self._database_id = await claim_task_queues(self._client, self._database, queues)
            except errors.StartRefused as error:
                raise errors.ServiceUnavailable(str(error)) from error
        return self._database_id

    async def workflow_start(self, order_id: str) -> WorkflowStart | None:
        """Return the start of an order's workflow, or None when Temporal has no such workflow.

        A workflow of another task queue is an order of another system in the same namespace.
        """
        handle = self._client.get_workflow_handle(order_workflow_id(order_id))
        try:
            async with _temporal_call():
                description = await handle.describe(rpc_timeout=RPC_TIMEOUT)
        except RPCError as error:
            if error.status is RPCStatusCode.NOT_FOUND:
                return None
            raise
        if description.task_queue != self._settings.order_task_queue:
            return None
        started = description.start_time
        return WorkflowStart(
            accepted_at=started.replace(microsecond=started.microsecond // 1000 * 1000),
            fingerprint=await description.memo_value("fingerprint", None),
            run_id=description.typed_search_attributes.get(search_attributes.ORDER_RUN_ID),
            request_id=await description.memo_value("request_id", None),
            is_running=description.status is WorkflowExecutionStatus.RUNNING,
        )

    async def send_request(
        self, order_id: str, request: Request, idempotency_key: str | None = None
    ) -> RequestResult:
        """Send a request to a running order and return its result, which is accepted.

        A repeated request returns the result of the accepted one: with the same key, and without a key when
        it is the last accepted request of its kind and has the same content and sender.

        Raises TooLate with the reason when the order rejects the request, AddressOutdated when the request is
        based on a replaced address, RequestMalformed, OrderUnknown, Overloaded when the order has too many
        requests, and ServiceUnavailable when PostgreSQL or Temporal is unavailable or no worker responds
        within 10 s. The order may still process the request after ServiceUnavailable.
        """
        update_id = None
        if idempotency_key is not None:
            key_id = f"key-{_digest(idempotency_key)}-"
            update_id = key_id + _digest(type(request).__name__, asdict(request))
            earlier = await self._accepted_request(order_id, request)
            if earlier is not None and earlier.has_applied(update_id):
                return earlier.result
            if earlier is not None and earlier.has_applied(key_id):
                raise errors.RequestMalformed("Idempotency-Key was used for another request; use a new key")
        try:
            return await self._send(order_id, request, update_id)
        except (errors.TooLate, errors.AddressOutdated, errors.Overloaded):
            earlier = await self._accepted_request(order_id, request)
            if earlier is not None and earlier.is_last:
                return earlier.result
            raise

    async def _accepted_request(
        self, order_id: str, request: Request
    ) -> order_details.AcceptedRequest | None:
        """Return the order's accepted request with this content; None for an unknown order."""
        return await with_timeout(
            order_details.accepted_request(self._database, order_id, UPDATES[type(request)], _detail(request))
        )

    async def _send(self, order_id: str, request: Request, update_id: str | None) -> RequestResult:
        try:
            result = await self._updates.execute(order_id, request, update_id)
        except RPCError as error:
            if error.status not in (RPCStatusCode.NOT_FOUND, RPCStatusCode.FAILED_PRECONDITION):
                raise
            started = await self.workflow_start(order_id)
            if started is not None and started.is_running:
                # Temporal accepts 2,000 updates of one workflow.
                raise errors.Overloaded("this order has received too many requests") from error
            raise await self._no_running_order(order_id) from error
        except WorkflowUpdateFailedError as error:
            if isinstance(error.cause, ApplicationError):
                if error.cause.type in UNACCEPTABLE:
                    raise errors.RequestMalformed(error.cause.message) from error
                if error.cause.type == TOO_MANY_REQUESTS:
                    raise errors.Overloaded(error.cause.message) from error
            # The workflow ended before it processed the update.
            raise await self._no_running_order(order_id) from error
        if result.is_outdated:
            raise errors.AddressOutdated(result.message)
        if not result.accepted:
            raise errors.TooLate(result.message)
        return result

    async def _no_running_order(self, order_id: str) -> errors.OrderUnknown | errors.TooLate:
        """Return the error for an order without a running workflow."""
        order = await with_timeout(order_details.order(self._database, order_id))
        if order is None:
            return errors.OrderUnknown(f"there is no order {order_id}")
        if order.summary.state.is_terminal:
            return errors.TooLate(f"too late: the order is {order.summary.state}")
        return errors.TooLate("too late: the order's workflow has ended")


def _is_same_request(order: OrderRequest, started: WorkflowStart) -> bool:
    return order.start_request_id is not None and order.start_request_id == started.request_id


def start_request_id(idempotency_key: str | None) -> str | None:
    """Return the id of a start with this idempotency key; None without a key."""
    return None if idempotency_key is None else f"start-{_digest(idempotency_key)}"


def _digest(*parts: object) -> str:
    return sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def _detail(request: Request) -> dict[str, object]:
    """Return the fields of `detail` in the event of an accepted request."""
    match request:
        case CancelOrder():
            return {"by": request.cancelled_by, "message": request.reason}
        case RejectOrder():
            return {"by": request.reviewer, "message": request.reason}
        case ApproveOrder():
            return {"reviewer": request.reviewer}
        case UpdateAddress():
            return {"by": request.updated_by, "new_address": request.new_address.to_json()}


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
