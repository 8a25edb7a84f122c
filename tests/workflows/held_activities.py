"""In-memory activities that a test can hold, so that an order stays in a known state."""

import asyncio
from dataclasses import dataclass, field

from temporalio import activity

from orchestrator.messages import STEP_ACTIVITIES, Activity
from orchestrator.testing import InMemoryActivities

HEARTBEAT_SECONDS = 0.5

FORWARD_ACTIVITIES = (
    Activity.RECEIVE,
    Activity.VALIDATE,
    Activity.CHARGE,
    Activity.PREPARE,
    Activity.DISPATCH,
)
STEP_ACTIVITY_NAMES = tuple(STEP_ACTIVITIES.values())


@dataclass
class Gate:
    """Where a held activity waits."""

    reached: asyncio.Event = field(default_factory=asyncio.Event)
    opened: asyncio.Event = field(default_factory=asyncio.Event)


class HeldActivities(InMemoryActivities):
    def __init__(self) -> None:
        super().__init__()
        self._gates: dict[tuple[str, Activity], Gate] = {}

    def hold(self, order_id: str, name: Activity) -> Gate:
        """Make the activity wait, as a regular activity, until it is released.

        A held forward step also ends when its order is aborted, as the real one does.
        """
        return self._gates.setdefault((order_id, name), Gate())

    async def release(self, order_id: str, name: Activity) -> None:
        self._gates[order_id, name].opened.set()
        await self.notify()

    async def started(self, name: Activity, order_id: str) -> bool:
        gate = self._gates.get((order_id, name))
        if gate is None or gate.opened.is_set():
            return True
        if activity.info().is_local:
            return False
        gate.reached.set()
        await self.notify()
        while not gate.opened.is_set():
            activity.heartbeat()
            order = self.orders.get(order_id)
            if order is not None and order.abort is not None and name in FORWARD_ACTIVITIES:
                return True
            async with self._changed:
                try:
                    async with asyncio.timeout(HEARTBEAT_SECONDS):
                        await self._changed.wait()
                except TimeoutError:
                    continue
        return True
