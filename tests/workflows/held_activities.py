"""In-memory activities that a test can hold, so that an order stays in a known state."""

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field

from temporalio import activity

from orchestrator.messages.activities import STEP_ACTIVITIES, Activity
from orchestrator.testing import InMemoryActivities

POLL_SECONDS = 0.05

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

    def release(self, order_id: str, name: Activity) -> None:
        self._gates[order_id, name].opened.set()

    async def started(self, name: Activity, order_id: str) -> bool:
        gate = self._gates.get((order_id, name))
        if gate is None or gate.opened.is_set():
            return True
        if activity.info().is_local:
            return False
        gate.reached.set()
        while not gate.opened.is_set():
            activity.heartbeat()
            order = self.orders.get(order_id)
            if order is not None and order.abort is not None and name in FORWARD_ACTIVITIES:
                return True
            with suppress(TimeoutError):
                await asyncio.wait_for(gate.opened.wait(), POLL_SECONDS)
        return True
