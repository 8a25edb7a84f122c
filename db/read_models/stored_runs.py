"""Load tests as the dashboard shows them. Raises DatabaseUnavailable when PostgreSQL does not answer."""

from dataclasses import dataclass

from db import queries
from db.database import Row
from db.read_only_database import ReadOnlyDatabase

_SQL = queries.load("stored_runs.sql")


@dataclass(frozen=True)
class RunTimes:
    """The exact completion times of a judged run, in ms, and how many of its orders were late."""

    completion_ms: list[int]
    late: int
    orders: int


def shelf(reader: ReadOnlyDatabase, limit: int) -> list[Row]:
    """The newest runs in brief: run_id, scenario, fault_profile, started_at, ended_at, verdict, exit_code,
    late_orders, counted_orders, offered_rate (a second), p99_ms. The last six are None until it is judged."""
    return reader.fetch_all(_SQL["shelf"], {"limit": limit})


def verdict(reader: ReadOnlyDatabase, run_id: str) -> Row | None:
    """run_id, scenario, started_at, ended_at, verdict; None when there is no such run."""
    return reader.fetch_one(_SQL["verdict"], {"run_id": run_id})


def times(reader: ReadOnlyDatabase, run_id: str) -> RunTimes | None:
    """None when there is no such run, or it has not been judged."""
    row = reader.fetch_one(_SQL["times"], {"run_id": run_id})
    if row is None:
        return None
    found = sorted(row["completion_ms"] or [])
    return RunTimes(found, row["late_orders"] or 0, row["counted_orders"] or len(found))


def under_way(reader: ReadOnlyDatabase) -> list[Row]:
    """Runs that have not ended: run_id, scenario, started_at, options, fault_profile, and of their orders
    accepted, in_flight, finished, late (overdue ones included) and last_accepted_at (None before one)."""
    return reader.fetch_all(_SQL["under_way"])
