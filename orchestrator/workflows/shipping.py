"""One shipment of an order: prepare the package, dispatch it, and report a failure to the order."""

from datetime import timedelta

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from db.domain import Step
    from orchestrator.messages.activities import StepBatchRequest, StepRequest, StepResult, StepStatus
    from orchestrator.messages.orders import ShippingRequest
    from orchestrator.messages.requests import DispatchFailed
    from orchestrator.workflows.descriptions import shipment_details
    from orchestrator.workflows.order_progress import OrderProgress
    from orchestrator.workflows.step_execution import run_steps

TIME_BUDGET = timedelta(seconds=2)
"""Longer than the time budget of an order, because this workflow handles no signals. Shorter than
WORKFLOW_TASK_TIMEOUT."""


@workflow.defn
class ShippingWorkflow:
    @workflow.run
    async def run(self, shipment: ShippingRequest) -> StepResult:
        """Return the result of the last step that ran."""
        steps = [
            StepRequest(
                shipment.order_id,
                step,
                not_after,
                run_id=shipment.run_id,
                attempt_seconds=shipment.attempt_seconds.get(step),
            )
            for step, not_after in (
                (Step.PREPARE, shipment.prepare_not_after),
                (Step.DISPATCH, shipment.dispatch_not_after),
            )
        ]
        batch = StepBatchRequest(TIME_BUDGET.total_seconds(), steps=steps)
        progress = OrderProgress(
            lambda: workflow.set_current_details(shipment_details(progress, shipment.n)),
            current_step=Step.PREPARE,
        )
        result = (await run_steps(batch, progress, shipment.execution))[-1]
        if result.status in (StepStatus.DECLINED, StepStatus.OUT_OF_TIME):
            order = workflow.get_external_workflow_handle(shipment.order_workflow_id)
            is_declined = result.status is StepStatus.DECLINED
            reason = (is_declined and result.message) or result.status.value
            await order.signal("DispatchFailed", DispatchFailed(reason, result.attempts))
        return result
