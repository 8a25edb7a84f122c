"""Requests about a running order: cancel, change of address, approval and rejection.

OrderWorkflow receives each request as an update or as a signal and passes it on to OrderRequestHandlers. The
order database decides whether a request is accepted or too late.
"""

from collections import Counter
from collections.abc import Awaitable, Callable
from typing import TypeVar

from temporalio import workflow
from temporalio.exceptions import ApplicationError

from db.domain import EARLY_APPROVAL, Reason, RequestResult, State
from orchestrator.messages.activities import (
    AbortRequest,
    Activity,
    ApproveRequest,
    ChangeAddressRequest,
    RequestEvent,
)
from orchestrator.messages.orders import OrderRequest
from orchestrator.messages.requests import (
    INVALID_REQUEST,
    MAX_REQUESTS,
    TOO_MANY_REQUESTS,
    ApproveOrder,
    CancelOrder,
    PersonRequest,
    RejectOrder,
    UpdateAddress,
)
from orchestrator.workflows.order_progress import OrderProgress
from orchestrator.workflows.step_execution import run_database_activity

SYSTEM = "order-system"

AnyRequest = TypeVar("AnyRequest", bound=PersonRequest)


class OrderRequestHandlers:
    """Decides requests through the order database, and updates the workflow's progress with the result."""

    def __init__(self, order: OrderRequest, progress: OrderProgress) -> None:
        self._order = order
        self._progress = progress
        self._signal_count = 0
        self._handled: Counter[type[PersonRequest]] = Counter()

    # --- Requests of people -------------------------------------------------------------------------

    async def cancel(self, request: CancelOrder) -> RequestResult:
        return await self.abort(
            Reason.CUSTOMER_CANCELLED,
            requested_by=request.cancelled_by,
            message=request.reason,
            signal="cancel_order",
            request_id=await self._request_id(request),
        )

    async def reject(self, request: RejectOrder) -> RequestResult:
        return await self.abort(
            Reason.REVIEW_REJECTED,
            requested_by=request.reviewer,
            message=request.reason,
            signal="reject_order",
            request_id=await self._request_id(request),
        )

    async def approve(self, request: ApproveOrder) -> RequestResult:
        """Approve the order. Before its review, store the first approval until the review begins."""
        request_id = await self._request_id(request)
        if self._progress.is_in_review or self._progress.is_aborted:
            return await self.approve_in_review(
                request.reviewer, request_id=request_id, signal="approve_order"
            )
        is_first = self._progress.early_approval is None
        self._progress.early_approval = self._progress.early_approval or request.reviewer
        detail = {"reviewer": request.reviewer}
        event = RequestEvent(
            self._order.order_id, "approve_order", is_first, detail, request_id, self._order.run_id
        )
        await run_database_activity(Activity.RECORD_REQUEST_EVENT, event, bool)
        if not is_first:
            return RequestResult(False, "too late: the order has been approved", State.RECEIVED)
        return RequestResult(True, EARLY_APPROVAL, State.RECEIVED)

    async def update_address(self, request: UpdateAddress) -> RequestResult:
        request_id = await self._request_id(request)
        change = ChangeAddressRequest(
            self._order.order_id,
            request.new_address,
            request.updated_by,
            request_id,
            request.address_version,
            self._order.run_id,
        )
        return await run_database_activity(Activity.CHANGE_ADDRESS, change, RequestResult)

    async def _request_id(self, request: PersonRequest) -> str:
        """Return the idempotency key of the update or signal that is being handled, once the order is open.

        It is the same when the workflow is replayed. After a lost workflow task an update can be delivered
        later than others, so it is identified by its own id; signals keep their order.
        """
        self.reject_if_full(request)
        self._handled[type(request)] += 1
        if update := workflow.current_update_info():
            request_id = f"update-{update.id}"
        else:
            self._signal_count += 1
            request_id = f"signal-{self._signal_count}"
        await self.wait_until_open()
        return request_id

    def reject_if_full(self, request: PersonRequest) -> None:
        """Raise a non-retryable TooManyRequests if the order has handled MAX_REQUESTS requests of this kind.

        Each kind has a limit of its own, so that changes of address cannot prevent a cancellation.
        """
        if self._is_full(request):
            raise ApplicationError(
                f"this order has received {MAX_REQUESTS} requests of this kind and accepts no more",
                type=TOO_MANY_REQUESTS,
                non_retryable=True,
            )

    async def handle_signal(
        self, handler: Callable[[AnyRequest], Awaitable[RequestResult]], request: AnyRequest | None
    ) -> None:
        """Handle a signal, or ignore it if it is invalid or rejected. An error would fail the workflow."""
        if request is not None and self._is_full(request):
            # No log line: with thousands of signals, logging would exceed the workflow task timeout.
            return
        errors = ["it has no argument"] if request is None else request.validation_errors()
        if request is None or errors:
            workflow.logger.warning("invalid signal ignored: %s", "; ".join(errors))
            return
        try:
            await handler(request)
        except ApplicationError as error:
            workflow.logger.error("signal failed: %s", error.message)

    def _is_full(self, request: PersonRequest) -> bool:
        return self._handled[type(request)] >= MAX_REQUESTS

    # --- Decisions of the order database ------------------------------------------------------------

    async def wait_until_open(self) -> None:
        """Wait until the order is in the database. Raises the ApplicationError with which opening failed."""
        progress = self._progress
        await workflow.wait_condition(lambda: progress.is_open or progress.open_error is not None)
        if progress.open_error is not None:
            raise ApplicationError(progress.open_error.message, type=progress.open_error.type)

    async def abort(
        self,
        reason: Reason,
        *,
        requested_by: str = SYSTEM,
        message: str = "",
        signal: str | None = None,
        request_id: str | None = None,
        address_version: int | None = None,
    ) -> RequestResult:
        """Abort the order unless it has been dispatched, or its address has another version than the given
        one. `signal` is None for a decision of the system."""
        request = AbortRequest(
            self._order.order_id,
            reason,
            requested_by,
            message,
            signal,
            request_id or reason.value,
            self._order.run_id,
            address_version,
        )
        result = await run_database_activity(Activity.ABORT, request, RequestResult)
        self._progress.sync_from(result)
        return result

    def approval(self, reviewer: str, *, request_id: str, signal: str | None = None) -> ApproveRequest:
        return ApproveRequest(self._order.order_id, reviewer, signal, request_id, self._order.run_id)

    async def approve_in_review(
        self, reviewer: str, *, request_id: str, signal: str | None = None
    ) -> RequestResult:
        request = self.approval(reviewer, request_id=request_id, signal=signal)
        result = await run_database_activity(Activity.APPROVE, request, RequestResult)
        self._progress.sync_from(result)
        return result


def reject_if_invalid(request: PersonRequest) -> None:
    """Validate an update before it is written to the history. Raises a non-retryable InvalidRequest."""
    if errors := request.validation_errors():
        raise ApplicationError("; ".join(errors), type=INVALID_REQUEST, non_retryable=True)
