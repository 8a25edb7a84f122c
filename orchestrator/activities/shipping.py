"""Activities of the shipping side: pack, hand over, and take back."""

from typing import Any

from temporalio import activity

from db.orders import StartedAttempt
from orchestrator.activities.step_runner import StepRunner
from orchestrator.gateways.protocols import Gateways
from orchestrator.messages import Activity, StepRequest, StepResult


class ShippingActivities:
    """Packages and parcels are keyed by the order, so a second shipment of it is the same parcel."""

    def __init__(self, attempts: StepRunner, gateways: Gateways) -> None:
        self._attempts = attempts
        self._gateways = gateways

    @activity.defn(name=Activity.PREPARE)
    async def prepare(self, request: StepRequest) -> StepResult:
        async def pack(attempt: StartedAttempt) -> dict[str, Any]:
            await self._gateways.warehouse.pack(attempt.order_id, attempt.order_id, attempt.items)
            return {}

        return await self._attempts.run(request, pack)

    @activity.defn(name=Activity.DISPATCH)
    async def dispatch(self, request: StepRequest) -> StepResult:
        """Hands the parcel over, addressed as the books say at that moment.

        When the address changes during the call, the books refuse the result and the next attempt
        replaces the label.
        """

        async def hand_over(attempt: StartedAttempt) -> dict[str, Any]:
            tracking = await self._gateways.carrier.dispatch(
                attempt.order_id, attempt.order_id, attempt.address, attempt.address_version
            )
            return {"tracking": tracking, "address_version": attempt.address_version}

        return await self._attempts.run(
            request, hand_over, label_version=lambda attempt: attempt.address_version
        )

    @activity.defn(name=Activity.RECALL)
    async def recall(self, request: StepRequest) -> StepResult:
        """Calls the parcel off at the carrier and returns the package to the shelf."""

        async def take_back(attempt: StartedAttempt) -> dict[str, Any]:
            await self._gateways.carrier.cancel_shipment(attempt.order_id, attempt.order_id)
            await self._gateways.warehouse.unpack(attempt.order_id, attempt.order_id)
            return {}

        return await self._attempts.run(request, take_back)
