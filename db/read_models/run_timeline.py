"""The course of one load test over time, and the orders of one second of it. Raises DatabaseError."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple

from db import queries
from db.database import Row
from db.read_models import latency
from db.read_models.latency import SLICE_SECONDS, Disturbance, FaultSpan, Slice
from db.read_models.percentiles import min_count
from db.read_only_database import ReadOnlyDatabase

_SQL = queries.load("run_timeline.sql")

SHARES = (0.5, 0.99, 1.0)
MIN_SLICES = 6
"""A short run has at least this number of slices, also if they are too small for a p99."""


class RunSecond(NamedTuple):
    """One second of a run.

    `offered` and `late` count the orders that were due in it, `accepted` the acknowledged starts, `finished`
    the outcomes; `in_flight` is the count at its end. `send_delay_ms` is the longest from the scheduled to
    the actual send time; None if it was not recorded.
    """

    second: int
    offered: int = 0
    accepted: int = 0
    finished: int = 0
    late: int = 0
    in_flight: int = 0
    send_delay_ms: float | None = None


@dataclass(frozen=True)
class RunTimeline:
    """`seconds` has no gaps. `slices` have the completion times by acceptance; `times_ms` has SHARES."""

    started_at: datetime
    limit_seconds: float
    seconds: list[RunSecond]
    slices: list[Slice]
    slice_seconds: int
    faults: list[FaultSpan]
    disturbances: list[Disturbance]

    @property
    def until(self) -> datetime:
        return self.started_at + timedelta(seconds=max(len(self.seconds), 1))


def run_timeline(
    reader: ReadOnlyDatabase, run_id: str, default_limit_seconds: float = 15.0
) -> RunTimeline | None:
    """Return the course of a run, or None for an unknown run.

    The statistics of the load generator are used as soon as they are stored. Before that, and for an aborted
    run, the counts come from the orders, without send delays.
    """
    run = reader.fetch_one(_SQL["run"], {"run_id": run_id})
    if run is None:
        return None
    started_at: datetime = run["started_at"]
    if run["statistics"]:
        seconds = seconds_of(run["statistics"])
    else:
        rows = reader.fetch_all(_SQL["seconds"], {"run_id": run_id, "started_at": started_at})
        seconds = _without_gaps([RunSecond(**row) for row in rows])
    width = slice_width(sum(each.accepted for each in seconds), len(seconds))
    times = reader.fetch_all(
        _SQL["completion_times"], {"run_id": run_id, "started_at": started_at, "slice_seconds": width}
    )
    until = started_at + timedelta(seconds=max(len(seconds), 1))
    return RunTimeline(
        started_at=started_at,
        limit_seconds=run["limit_seconds"] or default_limit_seconds,
        seconds=seconds,
        slices=[
            Slice(row["at"], row["orders"], dict(zip(SHARES, row["times_ms"], strict=True))) for row in times
        ],
        slice_seconds=width,
        faults=latency.fault_spans(reader, started_at, until),
        disturbances=latency.disturbances(reader, started_at, until),
    )


def seconds_of(statistics: list[Row]) -> list[RunSecond]:
    """Return the statistics of a run, as stored in `runs`, as seconds."""
    return [
        RunSecond(
            row["second"],
            row["offered"],
            row["accepted"],
            row["finished"],
            row["late"],
            row["in_flight"],
            row["lag_max"] if row["offered"] else None,
        )
        for row in statistics
    ]


def slice_width(orders: int, seconds: int) -> int:
    """Return the width in seconds of the slices of a run: enough orders for a p99 in most of them, but at
    least MIN_SLICES slices."""
    needed = 1.2 * min_count(0.99) * seconds / max(orders, 1)
    wide_enough = next((each for each in SLICE_SECONDS if each >= needed), SLICE_SECONDS[-1])
    return min(wide_enough, max((each for each in SLICE_SECONDS if each * MIN_SLICES <= seconds), default=1))


def orders_of_second(
    reader: ReadOnlyDatabase, run_id: str, since: datetime, seconds: int = 1, limit: int = 200
) -> list[Row]:
    """Return the orders of a run that were accepted, or open, in the `seconds` from `since`, newest first:
    order_id, state, reason, accepted_at, completion_ms, within_limit, attempts, failed_attempts, and is_new
    if accepted in that time."""
    until = since + timedelta(seconds=seconds)
    return reader.fetch_all(
        _SQL["orders_of_second"], {"run_id": run_id, "since": since, "until": until, "limit": limit}
    )


def _without_gaps(rows: list[RunSecond]) -> list[RunSecond]:
    by_second = {row.second: row for row in rows}
    found: list[RunSecond] = []
    for second in range(max(by_second, default=-1) + 1):
        in_flight = found[-1].in_flight if found else 0
        found.append(by_second.get(second, RunSecond(second, in_flight=in_flight)))
    return found
