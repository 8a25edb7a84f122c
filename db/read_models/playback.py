"""The orders of a load test with their progress over time, for its playback. Raises DatabaseError."""

from dataclasses import dataclass
from datetime import datetime

from db import queries
from db.domain import State, Step
from db.read_only_database import ReadOnlyDatabase

_SQL = queries.load("playback.sql")

MAX_ORDERS = 20_000
"""Of a larger run, every n-th order is read. 20,000 orders are 0.5 MB of a report."""

COMPENSATE = "compensate"

_NEXT = {
    Step.RECEIVE: Step.VALIDATE,
    Step.VALIDATE: Step.REVIEW,
    Step.REVIEW: Step.CHARGE,
    Step.CHARGE: Step.PREPARE,
    Step.PREPARE: Step.DISPATCH,
}


@dataclass(frozen=True)
class PlayedOrder:
    """One order on the clock of its run.

    `accepted_ms` counts from the start of the run. `end_ms` and the start times of `phases` count from
    acceptance. A phase is a step or COMPENSATE. `end_ms` and `outcome` are None while the order is open.
    """

    order_id: str
    accepted_ms: int
    end_ms: int | None
    outcome: State | None
    is_late: bool
    phases: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True)
class PlayedOrders:
    """`shown` are all orders of the run, or every n-th of its `total` orders, in order of acceptance."""

    shown: list[PlayedOrder]
    total: int


def orders(
    reader: ReadOnlyDatabase, run_id: str, run_started_at: datetime, max_orders: int = MAX_ORDERS
) -> PlayedOrders:
    """Return the accepted orders of a run. Without events (retention), the orders have no phases."""
    rows = reader.fetch_all(
        _SQL["orders"], {"run_id": run_id, "run_started_at": run_started_at, "max_orders": max_orders}
    )
    shown = [
        PlayedOrder(
            row["order_id"],
            row["accepted_ms"],
            row["completion_ms"],
            State(row["state"]) if State(row["state"]).is_terminal else None,
            row["is_late"],
            phases(dict(zip(row["steps"], row["ended_ms"], strict=True)), row["aborted_ms"]),
        )
        for row in rows
    ]
    return PlayedOrders(shown, rows[0]["orders"] if rows else 0)


def phases(ended_ms: dict[str, int], aborted_ms: int | None) -> tuple[tuple[str, int], ...]:
    """Return the phases from the ends of the completed steps. A step that ended after the abort had no
    effect."""
    if not ended_ms and aborted_ms is None:
        return ()
    found = [(Step.RECEIVE.value, 0)]
    found += [(_NEXT[Step(step)].value, ms) for step, ms in ended_ms.items() if step in _NEXT]
    if aborted_ms is not None:
        found = [(phase, ms) for phase, ms in found if ms < aborted_ms or ms == 0]
        found.append((COMPENSATE, aborted_ms))
    return tuple(found)
