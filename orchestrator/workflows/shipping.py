"""One shipment of an order: pack it, hand it to the carrier, tell the order when that cannot be done."""

from datetime import timedelta

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from db.domain import Step
    from orchestrator.messages import (
        Activity,
        DispatchFailed,
        ShippingRequest,
        StepBatchRequest,
        StepRequest,
        StepResult,
        StepStatus,
    )
    from orchestrator.workflows.step_execution import advance, finished

PATIENCE = timedelta(seconds=2)
"""Nobody signals a shipment: it may keep its workflow task for almost as long as the task lasts."""


@workflow.defn
class ShippingWorkflow:
    @workflow.run
    async def run(self, shipment: ShippingRequest) -> StepResult:
        """Returns the result of the last step that was tried."""
        prepare = StepRequest(
            shipment.order_id, Step.PREPARE, shipment.prepare_not_after, run_id=shipment.run_id
        )
        dispatch = StepRequest(
            shipment.order_id, Step.DISPATCH, shipment.dispatch_not_after, run_id=shipment.run_id
        )
        go = await advance(
            StepBatchRequest(shipment.order_id, PATIENCE.total_seconds(), steps=[prepare, dispatch])
        )
        results = go.steps if go else []
        result = await finished(Activity.PREPARE, prepare, results[:1])
        if result.status is StepStatus.DONE:
            result = await finished(Activity.DISPATCH, dispatch, results[1:])
        if result.status in (StepStatus.DECLINED, StepStatus.OUT_OF_TIME):
            await self._tell_order(shipment, result)
        return result

    async def _tell_order(self, shipment: ShippingRequest, result: StepResult) -> None:
        order = workflow.get_external_workflow_handle(shipment.order_workflow_id)
        reason = result.message or result.status.value
        await order.signal("DispatchFailed", DispatchFailed(reason, result.attempts))
