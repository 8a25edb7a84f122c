"""Activities of the payment provider: charge and refund."""

from typing import Any

from temporalio import activity

from db.orders import StartedAttempt
from orchestrator.activities.step_runner import StepRunner
from orchestrator.gateways.guarantees import require_repeatable, require_settled
from orchestrator.gateways.protocols import Payment, PaymentProvider
from orchestrator.messages.activities import Activity, StepRequest, StepResult


class PaymentActivities:
    def __init__(self, step_runner: StepRunner, payments: PaymentProvider) -> None:
        self._step_runner = step_runner
        self._payments = payments

    @activity.defn(name=Activity.CHARGE)
    async def charge(self, request: StepRequest) -> StepResult:
        async def charge(attempt: StartedAttempt) -> dict[str, Any]:
            require_repeatable(self._payments.guarantees, attempt)
            await self._payments.charge(payment_of(attempt))
            return {
                "payment_id": attempt.payment_id,
                "amount_cents": attempt.amount_cents,
                "currency": attempt.currency,
            }

        return await self._step_runner.run(request, charge)

    @activity.defn(name=Activity.REFUND)
    async def refund(self, request: StepRequest) -> StepResult:
        """Refund the charge, or void the payment id so that a charge still in flight is declined."""

        async def refund(attempt: StartedAttempt) -> dict[str, Any]:
            if not attempt.owns_payment:
                # Nothing was charged for this order, and the payment id belongs to another one.
                return {"payment_id": attempt.payment_id}
            require_settled(self._payments.guarantees, attempt)
            outcome = await self._payments.refund(payment_of(attempt))
            return {"payment_id": attempt.payment_id, "refund_outcome": outcome.value}

        return await self._step_runner.run(request, refund)


def payment_of(attempt: StartedAttempt) -> Payment:
    return Payment(
        attempt.payment_id,
        attempt.order_id,
        attempt.amount_cents,
        attempt.currency,
        attempt.payment_method,
        attempt.payment_reference,
    )
