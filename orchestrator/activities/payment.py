"""Activities of the payment provider: charge and refund."""

from typing import Any

from temporalio import activity

from db.orders import StartedAttempt
from orchestrator.activities.step_runner import StepRunner
from orchestrator.gateways.protocols import PaymentProvider
from orchestrator.messages import Activity, StepRequest, StepResult


class PaymentActivities:
    def __init__(self, step_runner: StepRunner, payments: PaymentProvider) -> None:
        self._step_runner = step_runner
        self._payments = payments

    @activity.defn(name=Activity.CHARGE)
    async def charge(self, request: StepRequest) -> StepResult:
        async def charge(attempt: StartedAttempt) -> dict[str, Any]:
            await self._payments.charge(attempt.payment_id, attempt.order_id, attempt.amount_cents)
            return {"payment_id": attempt.payment_id, "amount_cents": attempt.amount_cents}

        return await self._step_runner.run(request, charge)

    @activity.defn(name=Activity.REFUND)
    async def refund(self, request: StepRequest) -> StepResult:
        """Refund the charge, or void the payment id so that a charge still in flight is declined."""

        async def refund(attempt: StartedAttempt) -> dict[str, Any]:
            if not attempt.owns_payment:
                # Nothing was charged for this order, and the payment id belongs to another one.
                return {"payment_id": attempt.payment_id}
            outcome = await self._payments.refund(attempt.payment_id, attempt.order_id)
            return {"payment_id": attempt.payment_id, "refund_outcome": outcome.value}

        return await self._step_runner.run(request, refund)
