"""Closes the books of an order whose own workflow ended without doing so.

That happens when an operator terminates the workflow, or the server's last resort ends it: then none of
the workflow's code runs any more. What stands is refunded and recalled, and the outcome written.
"""

import asyncio
from datetime import timedelta

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from db.domain import Reason, State, Step
    from orchestrator.messages import (
        AbortRequest,
        Activity,
        FinishRequest,
        OrderResult,
        ReconcileRequest,
        RequestResult,
        StepRequest,
    )
    from orchestrator.workflows.step_execution import carry_out, write

RECONCILER = "reconciler"
PATIENCE = timedelta(seconds=1)


@workflow.defn
class ReconcileWorkflow:
    @workflow.run
    async def run(self, request: ReconcileRequest) -> OrderResult:
        """Returns the outcome that stands in the books in the end."""
        if request.open_request is not None:
            await write(Activity.OPEN, request.open_request, bool)
        order_id = request.order_id
        answer = await write(
            Activity.ABORT,
            AbortRequest(
                order_id,
                Reason.TERMINATED,
                RECONCILER,
                request.cause,
                request_id=str(workflow.uuid4()),
                run_id=request.run_id,
            ),
            RequestResult,
        )
        if answer.abort_reason is None:
            # The carrier had the parcel before the workflow ended: the order was fulfilled.
            return await write(
                Activity.FINISH, FinishRequest(order_id, State.COMPLETED, request.run_id), OrderResult
            )
        # Whether anything was charged or packed is for the outside to say; undoing nothing is harmless.
        await asyncio.gather(
            carry_out(Activity.REFUND, StepRequest(order_id, Step.REFUND, run_id=request.run_id), PATIENCE),
            carry_out(Activity.RECALL, StepRequest(order_id, Step.RECALL, run_id=request.run_id), PATIENCE),
        )
        outcome = answer.abort_reason.outcome
        return await write(Activity.FINISH, FinishRequest(order_id, outcome, request.run_id), OrderResult)
