"""Activities of the cashier: charge and refund."""

from typing import Any

from temporalio import activity

from db.orders import StartedAttempt
from orchestrator.activities.step_runner import StepRunner
from orchestrator.gateways.protocols import PaymentProvider
from orchestrator.messages import Activity, StepRequest, StepResult


class PaymentActivities:
    def __init__(self, attempts: StepRunner, payments: PaymentProvider) -> None:
        self._attempts = attempts
        self._payments = payments

    @activity.defn(name=Activity.CHARGE)
    async def charge(self, request: StepRequest) -> StepResult:
        async def charge(attempt: StartedAttempt) -> dict[str, Any]:
            await self._payments.charge(attempt.payment_id, attempt.order_id, attempt.amount_cents)
            return {"payment_id": attempt.payment_id, "amount_cents": attempt.amount_cents}

        return await self._attempts.run(request, charge)

    @activity.defn(name=Activity.REFUND)
    async def refund(self, request: StepRequest) -> StepResult:
        """Pays back what was charged, and makes sure that a charge still in the air is declined."""

        async def refund(attempt: StartedAttempt) -> dict[str, Any]:
            if not attempt.owns_payment:
                # It was never charged, and to call the payment off would hit the order it belongs to.
                return {"payment_id": attempt.payment_id}
            undone = await self._payments.refund(attempt.payment_id, attempt.order_id)
            return {"payment_id": attempt.payment_id, "undone": undone.value}

        return await self._attempts.run(request, refund)
