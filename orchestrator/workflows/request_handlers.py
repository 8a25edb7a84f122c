"""How an order hears what people ask of it: each request as an answered update, and as a plain signal.

The books decide what is accepted. What they answer is also how the order learns where it stands.
"""

from collections.abc import Sequence

from temporalio import workflow
from temporalio.exceptions import ApplicationError

with workflow.unsafe.imports_passed_through():
    from db.domain import Reason, State, Step
    from orchestrator.messages import (
        DUPLICATE_ORDER,
        INVALID_REQUEST,
        AbortRequest,
        Activity,
        ApproveOrder,
        ApproveRequest,
        CancelOrder,
        ChangeAddressRequest,
        OrderRequest,
        RejectOrder,
        RequestEvent,
        RequestResult,
        UpdateAddress,
    )
    from orchestrator.workflows.step_execution import write

SYSTEM = "order-system"


class OrderRequestHandlers:
    """What a workflow knows of its order's standing, and the requests that may change it."""

    def __init__(self, order: OrderRequest) -> None:
        self._order = order
        self._is_stored = False
        self._is_duplicate = False
        self._is_in_review = False
        self._is_approved = False
        self._early_approval: ApproveOrder | None = None
        self._signals_heard = 0
        self._to_undo: list[Step] = []
        self._abort_reason: Reason | None = None

    # A signal may come from anybody's hand, without its argument too: a handler that raised over it would
    # hold up the order for good.

    @workflow.update
    async def cancel_order(self, request: CancelOrder) -> RequestResult:
        return await self._on_cancel(request, _update_id())

    @cancel_order.validator
    def _check_cancel_order(self, request: CancelOrder) -> None:
        _refuse_malformed(request)

    @workflow.signal(name="CancelOrder")
    async def signal_cancel_order(self, request: CancelOrder | None = None) -> None:
        if request is not None and _is_well_formed(request):
            await self._on_cancel(request, self._signal_id())

    @workflow.update
    async def update_address(self, request: UpdateAddress) -> RequestResult:
        return await self._on_update_address(request, _update_id())

    @update_address.validator
    def _check_update_address(self, request: UpdateAddress) -> None:
        _refuse_malformed(request)

    @workflow.signal(name="UpdateAddress")
    async def signal_update_address(self, request: UpdateAddress | None = None) -> None:
        if request is not None and _is_well_formed(request):
            await self._on_update_address(request, self._signal_id())

    @workflow.update
    async def approve_order(self, request: ApproveOrder) -> RequestResult:
        return await self._on_approve(request, _update_id())

    @approve_order.validator
    def _check_approve_order(self, request: ApproveOrder) -> None:
        _refuse_malformed(request)

    @workflow.signal(name="ApproveOrder")
    async def signal_approve_order(self, request: ApproveOrder | None = None) -> None:
        if request is not None and _is_well_formed(request):
            await self._on_approve(request, self._signal_id())

    @workflow.update
    async def reject_order(self, request: RejectOrder) -> RequestResult:
        return await self._on_reject(request, _update_id())

    @reject_order.validator
    def _check_reject_order(self, request: RejectOrder) -> None:
        _refuse_malformed(request)

    @workflow.signal(name="RejectOrder")
    async def signal_reject_order(self, request: RejectOrder | None = None) -> None:
        if request is not None and _is_well_formed(request):
            await self._on_reject(request, self._signal_id())

    async def _on_cancel(self, request: CancelOrder, request_id: str) -> RequestResult:
        await self._wait_until_stored()
        return await self._ask_to_abort(
            Reason.CUSTOMER_CANCELLED,
            by=request.cancelled_by,
            message=request.reason,
            signal="cancel_order",
            request_id=request_id,
        )

    async def _on_reject(self, request: RejectOrder, request_id: str) -> RequestResult:
        await self._wait_until_stored()
        return await self._ask_to_abort(
            Reason.REVIEW_REJECTED,
            by=request.reviewer,
            message=request.reason,
            signal="reject_order",
            request_id=request_id,
        )

    async def _on_approve(self, request: ApproveOrder, request_id: str) -> RequestResult:
        await self._wait_until_stored()
        if self._is_in_review or self._abort_reason is not None:
            return await self._approve(request.reviewer, request_id=request_id, signal="approve_order")
        is_first = self._early_approval is None
        self._early_approval = self._early_approval or request
        detail = {"reviewer": request.reviewer}
        note = RequestEvent(
            self._order.order_id, "approve_order", is_first, detail, request_id, self._order.run_id
        )
        await write(Activity.RECORD_REQUEST_EVENT, note, bool)
        if not is_first:
            return RequestResult(False, "too late: the order has been approved", State.RECEIVED)
        return RequestResult(True, "approved as soon as the review begins", State.RECEIVED)

    async def _on_update_address(self, request: UpdateAddress, request_id: str) -> RequestResult:
        await self._wait_until_stored()
        change = ChangeAddressRequest(
            self._order.order_id, request.new_address, request.updated_by, request_id, self._order.run_id
        )
        return await write(Activity.CHANGE_ADDRESS, change, RequestResult)

    def _signal_id(self) -> str:
        """Names a signal by its place among the signals, which is the same whenever they are heard again."""
        self._signals_heard += 1
        return f"signal-{self._signals_heard}"

    async def _wait_until_stored(self) -> None:
        await workflow.wait_condition(lambda: self._is_stored or self._is_duplicate)
        if self._is_duplicate:
            raise ApplicationError("the order was carried out before", type=DUPLICATE_ORDER)

    # --- What the books are asked -------------------------------------------------------------------

    async def _ask_to_abort(
        self,
        reason: Reason,
        *,
        by: str = SYSTEM,
        message: str = "",
        signal: str | None = None,
        request_id: str | None = None,
    ) -> RequestResult:
        request_id = request_id or reason.value
        answer = await write(
            Activity.ABORT,
            AbortRequest(
                self._order.order_id, reason, by, message, signal, request_id, run_id=self._order.run_id
            ),
            RequestResult,
        )
        self._learn_from(answer)
        return answer

    async def _approve(self, reviewer: str, *, request_id: str, signal: str | None = None) -> RequestResult:
        answer = await write(
            Activity.APPROVE,
            ApproveRequest(self._order.order_id, reviewer, signal, request_id, self._order.run_id),
            RequestResult,
        )
        self._learn_from(answer)
        return answer

    def _learn_from(self, answer: RequestResult) -> None:
        """Takes over what the books know. They may be ahead of us: what a workflow task has done that was
        lost with its worker is in the books, and not in our memory."""
        if answer.abort_reason is not None:
            self._abort_reason = answer.abort_reason
        self._have_undone(answer.compensations)
        if answer.state.is_past(State.IN_REVIEW) and not answer.state.is_terminal:
            self._is_approved = True

    def _have_undone(self, steps: Sequence[Step]) -> None:
        """From now on these are part of turning the order back, once each."""
        self._to_undo += [step for step in steps if step not in self._to_undo]


def _update_id() -> str:
    """Names an update by its own id: after a lost workflow task it is heard again, perhaps after others."""
    update = workflow.current_update_info()
    assert update is not None, "asked outside of an update"
    return f"update-{update.id}"


def _refuse_malformed(request: CancelOrder | UpdateAddress | ApproveOrder | RejectOrder) -> None:
    if problems := request.validation_errors():
        raise ApplicationError("; ".join(problems), type=INVALID_REQUEST, non_retryable=True)


def _is_well_formed(request: CancelOrder | UpdateAddress | ApproveOrder | RejectOrder) -> bool:
    problems = request.validation_errors()
    if problems:
        # A signal has nobody to answer, and an error in its handler would fail the order.
        workflow.logger.warning("signal ignored: %s", "; ".join(problems))
    return not problems
