"""Stored load tests, for the dashboard. Raises DatabaseError."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Self

from db import queries
from db.database import Row
from db.read_only_database import ReadOnlyDatabase
from db.runs import NewRun

_SQL = queries.load("stored_runs.sql")

LISTED_RUNS = 100


@dataclass(frozen=True)
class RunTimes:
    """The exact completion times of a finished run, in ms, and the number of its late orders.

    `completion_ms` is in order of the scheduled send times, with None for an order without an outcome.
    `orders` are all counted orders; an order later than `limit_ms` is late.
    """

    completion_ms: list[int | None]
    late: int
    orders: int
    limit_ms: float = math.inf

    @classmethod
    def of(
        cls,
        completion_ms: list[int | None] | None,
        late_orders: int | None,
        counted_orders: int | None,
        slo_seconds: float | None,
    ) -> Self:
        """Return the times as stored in `runs`."""
        times = completion_ms or []
        limit_ms = math.inf if slo_seconds is None else slo_seconds * 1000
        return cls(times, late_orders or 0, counted_orders or len(times), limit_ms)

    @cached_property
    def finished_ms(self) -> list[int]:
        """The completion times of the orders with an outcome, sorted."""
        return sorted(ms for ms in self.completion_ms if ms is not None)


def newest_runs(reader: ReadOnlyDatabase, limit: int) -> list[Row]:
    """Return run_id, label, notes, is_baseline, scenario, fault_profile, options, started_at, ended_at,
    last_accepted_at (None once it has ended), and, None without a verdict: verdict, exit_code, late_orders,
    counted_orders, offered_rate and completed_rate (a second), p50_ms, p99_ms."""
    return reader.fetch_all(_SQL["newest_runs"], {"run_id": None, "limit": limit})


def run_summary(reader: ReadOnlyDatabase, run_id: str) -> Row | None:
    """Return the row of `newest_runs` of one run, or None for an unknown run."""
    return reader.fetch_one(_SQL["newest_runs"], {"run_id": run_id, "limit": 1})


def verdict(reader: ReadOnlyDatabase, run_id: str) -> Row | None:
    """Return run_id, scenario, started_at, ended_at, verdict, or None for an unknown run."""
    return reader.fetch_one(_SQL["verdict"], {"run_id": run_id})


def setup(reader: ReadOnlyDatabase, run_id: str) -> NewRun | None:
    """Return how a run was set up, or None for an unknown run."""
    row = reader.fetch_one(_SQL["setup"], {"run_id": run_id})
    return None if row is None else NewRun(**row)


def times(reader: ReadOnlyDatabase, run_id: str) -> RunTimes | None:
    """Return None for an unknown run and for one without an end."""
    row = reader.fetch_one(_SQL["times"], {"run_id": run_id})
    if row is None:
        return None
    return RunTimes.of(**row)


def running_runs(reader: ReadOnlyDatabase) -> list[Row]:
    """Return the runs of the last day that have not ended: run_id, scenario, started_at, options,
    fault_profile, and their order counts accepted, in_flight, finished, late (with overdue ones) and
    last_accepted_at."""
    return reader.fetch_all(_SQL["running_runs"])
