"""The current state of orders, for pages that refresh. Raises DatabaseError."""

from dataclasses import dataclass
from datetime import datetime

from db import queries
from db.database import Row
from db.domain import TERMINAL_STATES, State
from db.read_only_database import ReadOnlyDatabase

_SQL = queries.load("live_orders.sql")


@dataclass(frozen=True)
class InFlight:
    """Orders without an outcome: all, those past their limit, in manual review, and aborted but
    not compensated."""

    orders: int
    overdue: int
    in_review: int
    compensating: int


@dataclass(frozen=True)
class RecentOutcomes:
    """The orders that finished within a time window, with exact times in ms (None without orders)."""

    finished: int
    late: int
    outcomes: dict[State, int]
    p50_ms: int | None
    p95_ms: int | None
    p99_ms: int | None
    max_ms: int | None


@dataclass(frozen=True)
class OutcomeSlice:
    """The orders that finished in one slice of a time window; times in ms, None without orders."""

    finished: int
    late: int
    p50_ms: int | None
    p99_ms: int | None


def in_flight(reader: ReadOnlyDatabase) -> InFlight:
    row = reader.fetch_one(_SQL["in_flight"])
    assert row is not None, "an aggregate returns a row"
    return InFlight(**row)


def open_by_state(reader: ReadOnlyDatabase) -> dict[State, int]:
    """Return the number of orders in flight in each state that has any, without the aborted ones."""
    return {State(row["state"]): row["orders"] for row in reader.fetch_all(_SQL["open_by_state"])}


def orders_by_deadline(reader: ReadOnlyDatabase, limit: int) -> list[Row]:
    """Return orders in flight, closest to their deadline first: order_id, run_id, state, current_step,
    abort_reason, review, accepted_at, deadline_at, elapsed_ms, limit_ms, attempt (of the current step)."""
    return reader.fetch_all(_SQL["orders_by_deadline"], {"limit": limit})


def orders_awaiting_review(reader: ReadOnlyDatabase, limit: int) -> list[Row]:
    """Return undecided orders with manual review, the most urgent first: order_id, run_id, state,
    amount_cents, currency, items, address, accepted_at, review_until, read_at."""
    return reader.fetch_all(_SQL["orders_awaiting_review"], {"limit": limit})


def throughput(reader: ReadOnlyDatabase, seconds: int) -> list[Row]:
    """Return one row for each of the last whole seconds: at, started, finished, rejected."""
    return reader.fetch_all(_SQL["throughput"], {"seconds": seconds})


def recent_outcomes(reader: ReadOnlyDatabase, seconds: int) -> RecentOutcomes:
    row = reader.fetch_one(_SQL["recent_outcomes"], {"seconds": seconds})
    assert row is not None, "an aggregate returns a row"
    p50, p95, p99, longest = row["percentiles"] or (None,) * 4
    return RecentOutcomes(
        finished=row["finished"],
        late=row["late"],
        outcomes={state: row[state.value] for state in TERMINAL_STATES},
        p50_ms=p50,
        p95_ms=p95,
        p99_ms=p99,
        max_ms=longest,
    )


def outcomes_over_time(reader: ReadOnlyDatabase, seconds: int, slices: int) -> list[OutcomeSlice]:
    """Return the orders that finished within the last seconds, by time slice, oldest first."""
    parameters = {"seconds": seconds, "slice_seconds": seconds / slices}
    by_slice = {row["slice"]: row for row in reader.fetch_all(_SQL["outcomes_over_time"], parameters)}
    found = []
    for number in range(slices):
        row = by_slice.get(number)
        p50, p99 = row["percentiles"] if row else (None, None)
        found.append(OutcomeSlice(row["finished"] if row else 0, row["late"] if row else 0, p50, p99))
    return found


def last_finished_at(reader: ReadOnlyDatabase) -> datetime | None:
    """Return the time of the newest outcome."""
    row = reader.fetch_one(_SQL["last_finished_at"])
    at: datetime | None = row["at"] if row else None
    return at
