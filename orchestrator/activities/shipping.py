"""Activities of warehouse and carrier: prepare, dispatch and recall."""

from typing import Any

from temporalio import activity

from db.orders import StartedAttempt
from orchestrator.activities.step_runner import StepRunner
from orchestrator.gateways.guarantees import (
    dispatch_parcel,
    require_repeatable,
    require_settled,
    shipment_keys,
)
from orchestrator.gateways.protocols import Gateways
from orchestrator.messages.activities import Activity, StepRequest, StepResult


class ShippingActivities:
    """The order id is the key of package and parcel, so a second shipment of an order is the same parcel."""

    def __init__(self, step_runner: StepRunner, gateways: Gateways) -> None:
        self._step_runner = step_runner
        self._gateways = gateways

    @activity.defn(name=Activity.PREPARE)
    async def prepare(self, request: StepRequest) -> StepResult:
        warehouse = self._gateways.warehouse

        async def pack(attempt: StartedAttempt) -> None:
            require_repeatable(warehouse.guarantees, attempt)
            await warehouse.pack(attempt.order_id, attempt.order_id, attempt.items)

        return await self._step_runner.run(request, pack)

    @activity.defn(name=Activity.DISPATCH)
    async def dispatch(self, request: StepRequest) -> StepResult:
        """Dispatch the parcel to the order's current address.

        When the address changes during the call, the order database rejects the result, and the next attempt
        replaces the label.
        """

        async def dispatch(attempt: StartedAttempt) -> dict[str, Any]:
            carrier = self._gateways.carrier
            require_repeatable(carrier.guarantees, attempt)
            tracking = await dispatch_parcel(carrier, attempt)
            return {"tracking": tracking, "address_version": attempt.address_version}

        return await self._step_runner.run(request, dispatch)

    @activity.defn(name=Activity.RECALL)
    async def recall(self, request: StepRequest) -> StepResult:
        """Cancel the shipment at the carrier and return the package to the warehouse."""

        async def recall(attempt: StartedAttempt) -> None:
            carrier, warehouse = self._gateways.carrier, self._gateways.warehouse
            for provider in (carrier, warehouse):
                require_settled(provider.guarantees, attempt)
            for key in shipment_keys(carrier, attempt.order_id, attempt.address_version):
                await carrier.cancel_shipment(key, attempt.order_id)
            await warehouse.unpack(attempt.order_id, attempt.order_id)

        return await self._step_runner.run(request, recall)
