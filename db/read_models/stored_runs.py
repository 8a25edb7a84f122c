"""Stored load tests, for the dashboard. Raises DatabaseError."""

from dataclasses import dataclass

from db import queries
from db.database import Row
from db.read_only_database import ReadOnlyDatabase

_SQL = queries.load("stored_runs.sql")


@dataclass(frozen=True)
class RunTimes:
    """The exact completion times of a finished run, in ms, and the number of its late orders."""

    completion_ms: list[int]
    late: int
    orders: int


def newest_runs(reader: ReadOnlyDatabase, limit: int) -> list[Row]:
    """Return run_id, scenario, fault_profile, started_at, ended_at, verdict, exit_code,
    late_orders, counted_orders, offered_rate (a second), p99_ms. The last six are None without a verdict."""
    return reader.fetch_all(_SQL["newest_runs"], {"limit": limit})


def verdict(reader: ReadOnlyDatabase, run_id: str) -> Row | None:
    """Return run_id, scenario, started_at, ended_at, verdict, or None for an unknown run."""
    return reader.fetch_one(_SQL["verdict"], {"run_id": run_id})


def times(reader: ReadOnlyDatabase, run_id: str) -> RunTimes | None:
    """Return None for an unknown run and for one without an end."""
    row = reader.fetch_one(_SQL["times"], {"run_id": run_id})
    if row is None:
        return None
    found = sorted(row["completion_ms"] or [])
    return RunTimes(found, row["late_orders"] or 0, row["counted_orders"] or len(found))


def running_runs(reader: ReadOnlyDatabase) -> list[Row]:
    """Return the runs of the last day that have not ended: run_id, scenario, started_at, options,
    fault_profile, and their order counts accepted, in_flight, finished, late (with overdue ones) and
    last_accepted_at."""
    return reader.fetch_all(_SQL["running_runs"])
