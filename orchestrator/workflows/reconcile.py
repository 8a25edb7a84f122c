"""Finishes an order whose own workflow closed without an outcome.

That happens when an operator terminates the workflow or its execution timeout ends it: none of its code runs
any more. The order is refunded and recalled, and its outcome is stored.
"""

import asyncio
from datetime import timedelta

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from db.domain import Reason, RequestResult, State, Step
    from orchestrator.messages.activities import (
        AbortRequest,
        Activity,
        FinishRequest,
        StepBatchRequest,
        StepRequest,
    )
    from orchestrator.messages.orders import OrderResult, ReconcileRequest
    from orchestrator.workflows.step_execution import run_database_activity, run_steps

RECONCILER = "reconciler"
TIME_BUDGET = timedelta(seconds=1)


@workflow.defn
class ReconcileWorkflow:
    @workflow.run
    async def run(self, request: ReconcileRequest) -> OrderResult:
        """Abort, compensate and finish the order; return the outcome that the database holds."""
        if request.new_order is not None:
            await run_database_activity(Activity.OPEN, request.new_order, bool)
        abort = AbortRequest(
            request.order_id,
            Reason.TERMINATED,
            RECONCILER,
            request.cause,
            request_id=str(workflow.uuid4()),
            run_id=request.run_id,
        )
        result = await run_database_activity(Activity.ABORT, abort, RequestResult)
        outcome = State.COMPLETED
        # Without an abort reason the package was dispatched before the workflow closed.
        if result.abort_reason is not None:
            outcome = result.abort_reason.outcome
            # Both run whether or not something was charged or packed: they are idempotent.
            await asyncio.gather(
                self._compensate(request, Step.REFUND), self._compensate(request, Step.RECALL)
            )
        finish = FinishRequest(request.order_id, outcome, request.run_id)
        return await run_database_activity(Activity.FINISH, finish, OrderResult)

    async def _compensate(self, request: ReconcileRequest, step: Step) -> None:
        steps = [StepRequest(request.order_id, step, run_id=request.run_id)]
        await run_steps(StepBatchRequest(TIME_BUDGET.total_seconds(), steps=steps))
