"""The data of a playback, as JSON with one array per column."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from db.domain import TERMINAL_STATES
from db.read_models.latency import Disturbance, FaultSpan
from db.read_models.playback import PlayedOrder, PlayedOrders
from loadtest.charts.disturbance_spans import disturbance_spans
from loadtest.charts.time_breakdown import SEGMENTS
from orchestrator.rest_client import Json

PHASES = tuple(segment for segment in SEGMENTS if segment != "waiting")


@dataclass(frozen=True)
class RunPlayback:
    """A run to play back. `disturbances` and `faults` are in order of time."""

    started_at: datetime
    limit_seconds: float
    orders: PlayedOrders
    disturbances: Sequence[Disturbance] = ()
    faults: Sequence[FaultSpan] = ()

    @property
    def note(self) -> str:
        """One sentence if not all orders are shown, else ""."""
        shown, total = len(self.orders.shown), self.orders.total
        return f"Shows {shown:,} of {total:,} orders, evenly chosen." if shown < total else ""

    def to_json(self) -> Json:
        """Return the data for `player.js`. Times are integer ms; -1 and null stand for missing values.

        `starts` has for each phase the time at which each order entered it.
        """
        shown = self.orders.shown
        starts = {phase: [-1] * len(shown) for phase in PHASES}
        for number, order in enumerate(shown):
            for phase, start_ms in order.phases:
                starts[phase][number] = start_ms
        return {
            "limit_ms": round(self.limit_seconds * 1000),
            "total": self.orders.total,
            "outcomes": [outcome.value for outcome in TERMINAL_STATES],
            "ids": [order.order_id for order in shown],
            "accepted": [order.accepted_ms for order in shown],
            "end": [-1 if order.end_ms is None else order.end_ms for order in shown],
            "outcome": [_outcome_index(order) for order in shown],
            "late": [int(order.is_late) for order in shown],
            "starts": {phase: column for phase, column in starts.items() if any(ms >= 0 for ms in column)},
            "disturbances": [
                {"at": self._ms(each.since), "until": self._ms(each.until), "name": each.name}
                for each in disturbance_spans(self.disturbances, self.limit_seconds)
            ],
            "faults": [
                {"from": self._ms(each.since), "to": self._ms(each.until), "name": each.profile}
                for each in self.faults
                if each.profile != "none"
            ],
        }

    def _ms(self, at: datetime | None) -> int | None:
        return None if at is None else round((at - self.started_at).total_seconds() * 1000)


def _outcome_index(order: PlayedOrder) -> int:
    return -1 if order.outcome is None else TERMINAL_STATES.index(order.outcome)
