"""Activities of the cashier: charge and refund."""

from typing import Any

from temporalio import activity

from db.orders import BegunAttempt
from orchestrator.activities.attempts import Attempts
from orchestrator.outside.protocols import PaymentProvider
from orchestrator.vocabulary import Activity, StepRequest, StepResult


class Cashier:
    def __init__(self, attempts: Attempts, payments: PaymentProvider) -> None:
        self._attempts = attempts
        self._payments = payments

    @activity.defn(name=Activity.CHARGE)
    async def charge(self, request: StepRequest) -> StepResult:
        async def charge(attempt: BegunAttempt) -> dict[str, Any]:
            await self._payments.charge(attempt.payment_id, attempt.order_id, attempt.amount_cents)
            return {"payment_id": attempt.payment_id, "amount_cents": attempt.amount_cents}

        return await self._attempts.run(request, charge)

    @activity.defn(name=Activity.REFUND)
    async def refund(self, request: StepRequest) -> StepResult:
        """Pays back what was charged, and makes sure that a charge still in the air is declined."""

        async def refund(attempt: BegunAttempt) -> dict[str, Any]:
            if not attempt.owns_payment:
                # It was never charged, and to call the payment off would hit the order it belongs to.
                return {"payment_id": attempt.payment_id}
            undone = await self._payments.refund(attempt.payment_id, attempt.order_id)
            return {"payment_id": attempt.payment_id, "undone": undone.value}

        return await self._attempts.run(request, refund)
