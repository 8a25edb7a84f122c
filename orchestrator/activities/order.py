"""Activities of OrderWorkflow: open, receive, validate, decide requests and finish.

They log each change of an order and each signal. A repeated activity logs again; the order database does not
change twice.
"""

from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any, Protocol

import structlog
from temporalio import activity
from temporalio.exceptions import ApplicationError

from db.domain import NewOrder, RequestResult, Step
from db.orders import OrderRepository, StartedAttempt
from orchestrator.activities.payment import payment_of
from orchestrator.activities.step_runner import StepRunner
from orchestrator.errors import GatewayDeclined
from orchestrator.gateways.protocols import Gateways
from orchestrator.messages.activities import (
    AbortRequest,
    Activity,
    ApproveRequest,
    ChangeAddressRequest,
    FinishRequest,
    RequestEvent,
    StepRequest,
    StepResult,
    StepStatus,
)
from orchestrator.messages.orders import DUPLICATE_ORDER, OrderResult

log = structlog.get_logger()

OutcomeObserver = Callable[[OrderResult, int], None]
"""Called with an order's outcome and its limit in ms; at least once for each order."""

_SIGNAL_EVENTS = {True: "signal accepted", False: "signal too late"}


class OrderMessage(Protocol):
    """A message about one order, with the fields of every log line."""

    @property
    def order_id(self) -> str: ...

    @property
    def run_id(self) -> str | None: ...


class OrderActivities:
    def __init__(
        self,
        orders: OrderRepository,
        step_runner: StepRunner,
        gateways: Gateways,
        on_outcome: OutcomeObserver | None = None,
    ) -> None:
        self._orders = orders
        self._step_runner = step_runner
        self._gateways = gateways
        self._on_outcome = on_outcome

    @activity.defn(name=Activity.OPEN)
    async def open(self, order: NewOrder) -> bool:
        """Insert the order.

        Raises a non-retryable DuplicateOrder when the order exists for another workflow run: Temporal may
        have deleted the first run after its retention period.
        """
        if not await self._orders.insert_order(order):
            raise ApplicationError(
                f"order {order.order_id} already exists", type=DUPLICATE_ORDER, non_retryable=True
            )
        _log_change("order accepted", order, step=Step.RECEIVE.value, amount_cents=order.amount_cents)
        return True

    @activity.defn(name=Activity.RECEIVE)
    async def receive(self, request: StepRequest) -> StepResult:
        """Check that the warehouse has the items in stock."""
        warehouse = self._gateways.warehouse
        return await self._step_runner.run(
            request, lambda attempt: warehouse.check_stock(attempt.order_id, attempt.items)
        )

    @activity.defn(name=Activity.VALIDATE)
    async def validate(self, request: StepRequest) -> StepResult:
        """Check that the payment id belongs to this order and that the carrier delivers to the address, and
        announce the payment."""

        async def check(attempt: StartedAttempt) -> dict[str, Any] | None:
            if not attempt.owns_payment:
                raise GatewayDeclined("the payment id belongs to another order")
            await self._gateways.carrier.check_address(attempt.order_id, attempt.address)
            reference = await self._gateways.payments.create(payment_of(attempt))
            return None if reference is None else {"payment_reference": reference}

        result = await self._step_runner.run(request, check)
        if result.status is StepStatus.DONE:
            _log_change("order in review", request, step=Step.REVIEW.value)
        return result

    @activity.defn(name=Activity.APPROVE)
    async def approve(self, request: ApproveRequest) -> RequestResult:
        decision = await self._orders.approve(
            request.order_id, request.reviewer, signal=request.signal, request_id=request.request_id
        )
        _log_signal(request, request.signal, decision)
        if decision.accepted:
            _log_change("order approved", request, step=Step.REVIEW.value)
        return await self._with_refund(request.order_id, decision)

    @activity.defn(name=Activity.CHANGE_ADDRESS)
    async def change_address(self, request: ChangeAddressRequest) -> RequestResult:
        decision = await self._orders.change_address(
            request.order_id,
            request.new_address,
            request.updated_by,
            request_id=request.request_id,
            address_version=request.address_version,
        )
        _log_signal(request, "update_address", decision)
        return decision

    @activity.defn(name=Activity.ABORT)
    async def abort(self, request: AbortRequest) -> RequestResult:
        """Abort the order. The first accepted reason decides the outcome; none is accepted after dispatch."""
        decision = await self._orders.abort(
            request.order_id,
            request.reason,
            request.requested_by,
            request.message,
            signal=request.signal,
            request_id=request.request_id,
            address_version=request.address_version,
        )
        _log_signal(request, request.signal, decision)
        if decision.accepted:
            _log_change("order aborted", request, reason=request.reason.value, state=decision.state.value)
        return await self._with_refund(request.order_id, decision)

    async def _with_refund(self, order_id: str, decision: RequestResult) -> RequestResult:
        """Add the refund to the compensations of an aborted order, if the payment provider may have a record
        of the payment from the step `validate`."""
        is_needed = decision.abort_reason is not None and self._gateways.creates_payment
        if not is_needed or Step.REFUND in decision.compensations:
            return decision
        snapshot = await self._orders.snapshot(order_id)
        if snapshot is None or Step.VALIDATE not in snapshot.attempted_steps:
            return decision
        return replace(decision, compensations=[*decision.compensations, Step.REFUND])

    @activity.defn(name=Activity.RECORD_REQUEST_EVENT)
    async def record_request_event(self, request: RequestEvent) -> bool:
        """Record a request that the workflow decided itself."""
        await self._orders.record_request(
            request.order_id,
            request.signal,
            accepted=request.accepted,
            request_id=request.request_id,
            **request.detail,
        )
        _log_change(_SIGNAL_EVENTS[request.accepted], request, signal=request.signal)
        return True

    @activity.defn(name=Activity.FINISH)
    async def finish(self, request: FinishRequest) -> OrderResult:
        """Store the outcome, and return the stored one, which may be from an earlier execution.

        Raises RuntimeError when the order is not ready for an outcome, for example because a refund is
        missing. That is a bug of the workflow; the activity fails until it is fixed.
        """
        snapshot = await self._orders.finish(request.order_id, request.outcome)
        if not snapshot.state.is_terminal or snapshot.completion_ms is None:
            raise RuntimeError(f"order {request.order_id} cannot be {request.outcome}: {asdict(snapshot)}")
        _log_change(
            "order finished",
            request,
            step=Step.FINISH.value,
            outcome=snapshot.state.value,
            reason=snapshot.abort_reason and snapshot.abort_reason.value,
            completion_ms=snapshot.completion_ms,
        )
        result = OrderResult(request.order_id, snapshot.state, snapshot.abort_reason, snapshot.completion_ms)
        if self._on_outcome is not None:
            self._on_outcome(result, snapshot.limit_ms)
        return result


def _log_signal(request: OrderMessage, signal: str | None, decision: RequestResult) -> None:
    """Log the decision on a person's request; a decision of the system has no signal."""
    if signal is not None:
        event = _SIGNAL_EVENTS[decision.accepted]
        _log_change(event, request, signal=signal, state=decision.state.value, answer=decision.message)


def _log_change(event: str, request: OrderMessage, **details: Any) -> None:
    log.info(event, order_id=request.order_id, run_id=request.run_id, **details)
