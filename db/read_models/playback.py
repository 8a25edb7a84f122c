"""The orders of a load test with their progress over time, for its playback. Raises DatabaseError."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import NamedTuple

from db import queries
from db.database import Row
from db.domain import COMPENSATIONS, TERMINAL_STATES, State, Step
from db.read_only_database import ReadOnlyDatabase

_SQL = queries.load("playback.sql")

MAX_ORDERS = 3_000
"""Of a larger run, this many orders are read, evenly chosen. That takes 40 ms (`python -m tests.bench`)."""

COMPENSATE = "compensate"

_FORWARD_STEPS = [step.value for step in Step if step not in (*COMPENSATIONS, Step.FINISH)]
_NEXT = dict(pairwise(_FORWARD_STEPS))
_OUTCOMES = {state.value: state for state in TERMINAL_STATES}


class PlayedOrder(NamedTuple):
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
    """`shown` are orders of the run in order of acceptance, evenly chosen from its `total` orders."""

    shown: list[PlayedOrder]
    total: int


def orders(
    reader: ReadOnlyDatabase, run_id: str, run_started_at: datetime, max_orders: int = MAX_ORDERS
) -> PlayedOrders:
    """Return the accepted orders of a run."""
    rows = reader.fetch_all(
        _SQL["orders"], {"run_id": run_id, "run_started_at": run_started_at, "max_orders": max_orders}
    )
    return PlayedOrders([played_order(row) for row in rows], rows[0]["orders"] if rows else 0)


def played_order(row: Row) -> PlayedOrder:
    return PlayedOrder(
        row["order_id"],
        row["accepted_ms"],
        row["completion_ms"],
        _OUTCOMES.get(row["state"]),
        row["is_late"],
        phases(dict(zip(_NEXT, row["step_ends_ms"], strict=True)), row["aborted_ms"]),
    )


def evenly_chosen(every: Sequence[PlayedOrder], count: int) -> list[PlayedOrder]:
    """Return at most `count` orders, by the same rule as the statement."""
    total = len(every)
    return [each for n, each in enumerate(every) if (n + 1) * count // total > n * count // total]


def phases(ended_ms: Mapping[str, int | None], aborted_ms: int | None) -> tuple[tuple[str, int], ...]:
    """Return the phases from the ends of the completed steps. A step that ended after the abort had no
    effect."""
    ended = [(phase, ms) for step, phase in _NEXT.items() if (ms := ended_ms.get(step)) is not None]
    if aborted_ms is not None:
        ended = [*((phase, ms) for phase, ms in ended if ms < aborted_ms), (COMPENSATE, aborted_ms)]
    return ((_FORWARD_STEPS[0], 0), *ended) if ended else ()
