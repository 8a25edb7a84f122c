"""Activities of the order desk: they take orders in, note decisions and write outcomes.

They log each change of an order and each signal. An activity that runs twice says so twice; the books do not.
"""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import structlog
from temporalio import activity
from temporalio.exceptions import ApplicationError

from db.domain import Step
from db.orders import OrderRepository, StartedAttempt
from orchestrator.activities.step_runner import StepRunner
from orchestrator.gateways.protocols import Gateways
from orchestrator.messages import (
    DUPLICATE_ORDER,
    AbortRequest,
    Activity,
    ApproveRequest,
    ChangeAddressRequest,
    FinishRequest,
    OpenRequest,
    OrderResult,
    RequestEvent,
    RequestResult,
    StepRequest,
    StepResult,
    StepStatus,
)

log = structlog.get_logger()

Decision = AbortRequest | ChangeAddressRequest | ApproveRequest

OutcomeObserver = Callable[[OrderResult, int], None]
"""Is told of an order's outcome, and of its limit in ms; again when its worker dies before it can say so."""


class OrderActivities:
    def __init__(
        self,
        orders: OrderRepository,
        attempts: StepRunner,
        gateways: Gateways,
        notice: OutcomeObserver | None = None,
    ) -> None:
        self._orders = orders
        self._attempts = attempts
        self._gateways = gateways
        self._notice = notice

    @activity.defn(name=Activity.OPEN)
    async def open(self, request: OpenRequest) -> bool:
        """Takes the order into the books.

        Raises a non-retryable DuplicateOrder when the books hold this order for another workflow run,
        as they may once Temporal has forgotten the first one.
        """
        is_ours = await self._orders.insert_order(
            request.order, request.workflow_run_id, request.accepted_at, request.deadline_at
        )
        if not is_ours:
            raise ApplicationError(
                f"order {request.order.order_id} was carried out before",
                type=DUPLICATE_ORDER,
                non_retryable=True,
            )
        order = request.order
        log.info(
            "order accepted",
            order_id=order.order_id,
            run_id=order.run_id,
            step=Step.RECEIVE.value,
            amount_cents=order.amount_cents,
        )
        return True

    @activity.defn(name=Activity.RECEIVE)
    async def receive(self, request: StepRequest) -> StepResult:
        """Asks the warehouse whether it has the articles."""

        async def check_stock(attempt: StartedAttempt) -> dict[str, Any]:
            await self._gateways.warehouse.check_stock(attempt.items)
            return {}

        return await self._attempts.run(request, check_stock)

    @activity.defn(name=Activity.VALIDATE)
    async def validate(self, request: StepRequest) -> StepResult:
        """Checks that the payment is this order's own and that the carrier delivers to the address."""
        standing = await self._orders.standing(request.order_id)
        if standing is None:
            raise LookupError(request.order_id)
        if not standing.owns_payment:
            return StepResult(StepStatus.DECLINED, message="the payment id belongs to another order")

        async def check_address(attempt: StartedAttempt) -> dict[str, Any]:
            await self._gateways.carrier.check_address(attempt.address)
            return {}

        result = await self._attempts.run(request, check_address)
        if result.status is StepStatus.DONE:
            log.info(
                "order in review", order_id=request.order_id, run_id=request.run_id, step=Step.REVIEW.value
            )
        return result

    @activity.defn(name=Activity.APPROVE)
    async def approve(self, request: ApproveRequest) -> RequestResult:
        answer = await self._orders.approve(request)
        _log_signal(request, request.signal, answer)
        if answer.accepted:
            log.info(
                "order approved", order_id=request.order_id, run_id=request.run_id, step=Step.REVIEW.value
            )
        return answer

    @activity.defn(name=Activity.CHANGE_ADDRESS)
    async def change_address(self, request: ChangeAddressRequest) -> RequestResult:
        answer = await self._orders.change_address(request)
        _log_signal(request, "update_address", answer)
        return answer

    @activity.defn(name=Activity.ABORT)
    async def abort(self, request: AbortRequest) -> RequestResult:
        """Turns the order back; the first reason wins, and after dispatch none is accepted."""
        answer = await self._orders.abort(request)
        _log_signal(request, request.signal, answer)
        if answer.accepted:
            log.info(
                "order aborted",
                order_id=request.order_id,
                run_id=request.run_id,
                reason=request.reason.value,
                state=answer.state.value,
            )
        return answer

    @activity.defn(name=Activity.RECORD_REQUEST_EVENT)
    async def note_signal(self, request: RequestEvent) -> bool:
        await self._orders.note_signal(
            request.order_id,
            request.signal,
            accepted=request.accepted,
            request_id=request.request_id,
            **request.detail,
        )
        log.info(
            "signal accepted" if request.accepted else "signal too late",
            order_id=request.order_id,
            run_id=request.run_id,
            signal=request.signal,
        )
        return True

    @activity.defn(name=Activity.FINISH)
    async def finish(self, request: FinishRequest) -> OrderResult:
        """Writes the outcome and returns the one in the books, which may have been written before.

        Raises RuntimeError while the books are not ready for an outcome, for example because a refund
        is missing: that is a bug in the caller, and is better seen stuck than papered over.
        """
        standing = await self._orders.finish(request.order_id, request.outcome)
        if not standing.state.is_terminal or standing.completion_ms is None:
            raise RuntimeError(f"order {request.order_id} cannot be {request.outcome}: {asdict(standing)}")
        log.info(
            "order finished",
            order_id=request.order_id,
            run_id=request.run_id,
            step=Step.FINISH.value,
            outcome=standing.state.value,
            reason=standing.abort_reason and standing.abort_reason.value,
            completion_ms=standing.completion_ms,
        )
        result = OrderResult(request.order_id, standing.state, standing.abort_reason, standing.completion_ms)
        if self._notice is not None:
            self._notice(result, standing.limit_ms)
        return result


def _log_signal(request: Decision, signal: str | None, answer: RequestResult) -> None:
    """Says how a person's request was answered; nothing of a decision of the system's own."""
    if signal is None:
        return
    log.info(
        "signal accepted" if answer.accepted else "signal too late",
        order_id=request.order_id,
        run_id=request.run_id,
        signal=signal,
        state=answer.state.value,
        answer=answer.message,
    )
