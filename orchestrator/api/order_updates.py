"""Sends requests to running orders as Temporal updates, a few at a time to each order.

Temporal runs at most 10 updates of a workflow at the same time and rejects further ones. It aborts updates if
a workflow task is lost. Both are retried with the same update id, so a request takes effect once.
"""

import asyncio
from datetime import timedelta
from uuid import uuid4
from weakref import WeakValueDictionary

from temporalio.client import Client, RPCTimeoutOrCancelledError
from temporalio.service import RPCError, RPCStatusCode

from db.database import Database
from db.domain import RequestResult
from orchestrator import errors
from orchestrator.api.timeouts import while_available
from orchestrator.messages.ids import order_workflow_id
from orchestrator.messages.requests import ApproveOrder, CancelOrder, RejectOrder, UpdateAddress
from orchestrator.temporal.client import is_not_ready, temporal_errors

Request = CancelOrder | UpdateAddress | ApproveOrder | RejectOrder

UPDATES: dict[type[Request], str] = {
    CancelOrder: "cancel_order",
    UpdateAddress: "update_address",
    ApproveOrder: "approve_order",
    RejectOrder: "reject_order",
}
"""The name of the update for each request."""

UPDATE_TIMEOUT = timedelta(seconds=10)
"""Time for a worker to process an update. A check detects a Temporal server that does not respond earlier."""

SIMULTANEOUS_UPDATES = 4
"""Updates of one order that this process runs at the same time. Two API processes stay below Temporal's
limit."""

RETRY_PAUSE_SECONDS = 0.1

_RETRIED = (RPCStatusCode.UNAVAILABLE, RPCStatusCode.RESOURCE_EXHAUSTED)


class OrderUpdates:
    """The updates of this API process."""

    def __init__(self, client: Client, database: Database) -> None:
        self._client = client
        self._database = database
        self._slots: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    async def execute(self, order_id: str, request: Request, update_id: str | None) -> RequestResult:
        """Return the order's decision on a request.

        Raises Overloaded when other requests to the order delay this one by more than 10 s, RPCError for
        an order without a running workflow, WorkflowUpdateFailedError, and ServiceUnavailable.
        """
        update = _Update(self._client, order_id, request, update_id or f"api-{uuid4().hex}")
        slots = self._slots.setdefault(order_id, asyncio.Semaphore(SIMULTANEOUS_UPDATES))
        try:
            with temporal_errors():
                return await while_available(
                    update.run(slots), self._database, self._client, seconds=UPDATE_TIMEOUT.total_seconds()
                )
        except errors.DatabaseError as error:
            raise type(error)(f"{error} The order may still process the request.") from error
        except (TimeoutError, RPCTimeoutOrCancelledError) as error:
            raise update.timeout_error() from error


class _Update:
    """One update, with the last status with which the server rejected it."""

    def __init__(self, client: Client, order_id: str, request: Request, update_id: str) -> None:
        self._handle = client.get_workflow_handle(order_workflow_id(order_id))
        self._request = request
        self._id = update_id
        self._is_sent = False
        self._last_status: RPCStatusCode | None = None

    async def run(self, slots: asyncio.Semaphore) -> RequestResult:
        """Execute the update in one of `slots`. Repeat it while the server rejects it for a short time: the
        workflow has too many updates, its workflow task has failed, or the update was aborted."""
        async with slots:
            self._is_sent = True
            while True:
                try:
                    result: RequestResult = await self._handle.execute_update(
                        UPDATES[type(self._request)],
                        self._request,
                        id=self._id,
                        result_type=RequestResult,
                        rpc_timeout=UPDATE_TIMEOUT,
                    )
                except RPCError as error:
                    if error.status not in _RETRIED and not is_not_ready(error):
                        raise
                    self._last_status = error.status
                    await asyncio.sleep(RETRY_PAUSE_SECONDS)
                else:
                    return result

    def timeout_error(self) -> errors.OrderSystemError:
        """Return why the update was not processed within UPDATE_TIMEOUT."""
        if not self._is_sent or self._last_status is RPCStatusCode.RESOURCE_EXHAUSTED:
            return errors.Overloaded("too many requests about this order at the same time; try again shortly")
        if self._last_status is RPCStatusCode.UNAVAILABLE:
            return errors.TemporalUnavailable(
                "Temporal has not processed the request in time; the order may still process it"
            )
        return errors.ServiceUnavailable(
            "no worker has responded for the order; it may still process the request"
        )
