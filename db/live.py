"""What is happening now, for the screens that refresh. Raises BooksAway when PostgreSQL does not answer."""

from dataclasses import dataclass
from datetime import datetime

from db import queries
from db.pool import Row
from db.reader import Reader
from orchestrator.vocabulary import State

_SQL = queries.load("live.sql")


@dataclass(frozen=True)
class InFlight:
    """Orders without an outcome; `overdue` are past their deadline, `in_review` wait for a person."""

    orders: int
    overdue: int
    in_review: int


@dataclass(frozen=True)
class Lately:
    """The orders that finished within a window. Times in ms, exact; None when there was no order."""

    finished: int
    late: int
    outcomes: dict[State, int]
    p50_ms: int | None
    p95_ms: int | None
    p99_ms: int | None
    max_ms: int | None


@dataclass(frozen=True)
class ServerLoad:
    """Totals of all clients of the database since it started."""

    active_ms: float
    transactions: int


def in_flight(reader: Reader) -> InFlight:
    row = reader.fetch_one(_SQL["in_flight"])
    assert row is not None, "an aggregate gives a row"
    return InFlight(**row)


def race(reader: Reader, limit: int) -> list[Row]:
    """Running orders, the nearest to their deadline first: order_id, run_id, state, current_step,
    abort_reason, accepted_at, deadline_at, elapsed_ms, limit_ms, attempt (of the step under way)."""
    return reader.fetch_all(_SQL["race"], {"limit": limit})


def waiting_for_a_person(reader: Reader, limit: int) -> list[Row]:
    """Orders in manual review or on their way to it, the most urgent first: order_id, run_id, state,
    amount_cents, items, address, accepted_at, deadline_at, read_at."""
    return reader.fetch_all(_SQL["waiting_for_a_person"], {"limit": limit})


def pace(reader: Reader, seconds: int) -> list[Row]:
    """at, started, finished: one row for each of the last whole seconds."""
    return reader.fetch_all(_SQL["pace"], {"seconds": seconds})


def finished_lately(reader: Reader, seconds: int) -> Lately:
    row = reader.fetch_one(_SQL["finished_lately"], {"seconds": seconds})
    assert row is not None, "an aggregate gives a row"
    p50, p95, p99, longest = row["percentiles"] or (None,) * 4
    return Lately(
        finished=row["finished"],
        late=row["late"],
        outcomes={state: row[state.value] for state in (State.COMPLETED, State.CANCELLED, State.FAILED)},
        p50_ms=p50,
        p95_ms=p95,
        p99_ms=p99,
        max_ms=longest,
    )


def last_finished_at(reader: Reader) -> datetime | None:
    """When the newest outcome was reached, or None when there is none."""
    row = reader.fetch_one(_SQL["last_finished_at"])
    at: datetime | None = row["at"] if row else None
    return at


def server_load(reader: Reader) -> ServerLoad:
    row = reader.fetch_one(_SQL["server_load"])
    return ServerLoad(**row) if row else ServerLoad(0.0, 0)
