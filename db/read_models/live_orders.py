"""What is happening now, for the screens that refresh. Raises DatabaseUnavailable when PostgreSQL does not answer."""

from dataclasses import dataclass
from datetime import datetime

from db import queries
from db.database import Row
from db.domain import State
from db.read_only_database import ReadOnlyDatabase

_SQL = queries.load("live_orders.sql")


@dataclass(frozen=True)
class InFlight:
    """Orders without an outcome; `overdue` are past their deadline, `in_review` wait for a person."""

    orders: int
    overdue: int
    in_review: int


@dataclass(frozen=True)
class RecentOutcomes:
    """The orders that finished within a window. Times in ms, exact; None when there was no order."""

    finished: int
    late: int
    outcomes: dict[State, int]
    p50_ms: int | None
    p95_ms: int | None
    p99_ms: int | None
    max_ms: int | None


def in_flight(reader: ReadOnlyDatabase) -> InFlight:
    row = reader.fetch_one(_SQL["in_flight"])
    assert row is not None, "an aggregate gives a row"
    return InFlight(**row)


def race(reader: ReadOnlyDatabase, limit: int) -> list[Row]:
    """Running orders, the nearest to their deadline first: order_id, run_id, state, current_step,
    abort_reason, accepted_at, deadline_at, elapsed_ms, limit_ms, attempt (of the step under way)."""
    return reader.fetch_all(_SQL["race"], {"limit": limit})


def waiting_for_a_person(reader: ReadOnlyDatabase, limit: int) -> list[Row]:
    """Orders in manual review or on their way to it, the most urgent first: order_id, run_id, state,
    amount_cents, items, address, accepted_at, deadline_at, read_at."""
    return reader.fetch_all(_SQL["waiting_for_a_person"], {"limit": limit})


def pace(reader: ReadOnlyDatabase, seconds: int) -> list[Row]:
    """at, started, finished: one row for each of the last whole seconds."""
    return reader.fetch_all(_SQL["pace"], {"seconds": seconds})


def recent_outcomes(reader: ReadOnlyDatabase, seconds: int) -> RecentOutcomes:
    row = reader.fetch_one(_SQL["recent_outcomes"], {"seconds": seconds})
    assert row is not None, "an aggregate gives a row"
    p50, p95, p99, longest = row["percentiles"] or (None,) * 4
    return RecentOutcomes(
        finished=row["finished"],
        late=row["late"],
        outcomes={state: row[state.value] for state in (State.COMPLETED, State.CANCELLED, State.FAILED)},
        p50_ms=p50,
        p95_ms=p95,
        p99_ms=p99,
        max_ms=longest,
    )


def last_finished_at(reader: ReadOnlyDatabase) -> datetime | None:
    """When the newest outcome was reached, or None when there is none."""
    row = reader.fetch_one(_SQL["last_finished_at"])
    at: datetime | None = row["at"] if row else None
    return at
