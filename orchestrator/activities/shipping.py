"""Activities of warehouse and carrier: prepare, dispatch and recall."""

from typing import Any

from temporalio import activity

from db.orders import StartedAttempt
from orchestrator.activities.step_runner import StepRunner
from orchestrator.gateways.protocols import Gateways
from orchestrator.messages import Activity, StepRequest, StepResult


class ShippingActivities:
    """The order id is the key of package and parcel, so a second shipment of an order is the same parcel."""

    def __init__(self, step_runner: StepRunner, gateways: Gateways) -> None:
        self._step_runner = step_runner
        self._gateways = gateways

    @activity.defn(name=Activity.PREPARE)
    async def prepare(self, request: StepRequest) -> StepResult:
        warehouse = self._gateways.warehouse
        return await self._step_runner.run(
            request, lambda attempt: warehouse.pack(attempt.order_id, attempt.order_id, attempt.items)
        )

    @activity.defn(name=Activity.DISPATCH)
    async def dispatch(self, request: StepRequest) -> StepResult:
        """Dispatch the parcel to the order's current address.

        When the address changes during the call, the order database rejects the result, and the next attempt
        replaces the label.
        """

        async def dispatch(attempt: StartedAttempt) -> dict[str, Any]:
            tracking = await self._gateways.carrier.dispatch(
                attempt.order_id, attempt.order_id, attempt.address, attempt.address_version
            )
            return {"tracking": tracking, "address_version": attempt.address_version}

        return await self._step_runner.run(request, dispatch)

    @activity.defn(name=Activity.RECALL)
    async def recall(self, request: StepRequest) -> StepResult:
        """Cancel the shipment at the carrier and return the package to the warehouse."""

        async def recall(attempt: StartedAttempt) -> None:
            await self._gateways.carrier.cancel_shipment(attempt.order_id, attempt.order_id)
            await self._gateways.warehouse.unpack(attempt.order_id, attempt.order_id)

        return await self._step_runner.run(request, recall)
