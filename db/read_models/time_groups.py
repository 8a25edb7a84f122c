"""How the late, the slow and the other orders of a load test spent their time. Raises DatabaseError."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from db import queries
from db.read_only_database import ReadOnlyDatabase

_SQL = queries.load("time_groups.sql")

SLOW_SHARE = 0.95
"""The slow orders are the slowest 5 % of the orders that were on time."""

PARTS = ("receive", "validate", "review", "charge", "prepare", "dispatch", "compensate", "waiting")


class Window(NamedTuple):
    """A time in which a disturbance has its effect. `number` identifies the disturbance."""

    number: int
    since: datetime
    until: datetime


@dataclass(frozen=True)
class TimeGroup:
    """The total times of a group of orders, in ms. `parts_ms` (by PARTS) sum to `completion_ms`.

    `disturbed_ms` is the part of `parts_ms["waiting"]` in the windows of each disturbance, by its number.
    """

    orders: int
    completion_ms: int
    parts_ms: dict[str, int]
    disturbed_ms: dict[int, int] = field(default_factory=dict)


@dataclass(frozen=True)
class TimeGroups:
    """The finished orders of a run. `on_time` are those that are neither late nor slow."""

    on_time: TimeGroup | None = None
    slow: TimeGroup | None = None
    late: TimeGroup | None = None


def time_groups(reader: ReadOnlyDatabase, run_id: str, windows: Sequence[Window] = ()) -> TimeGroups:
    """Return the groups of a run; None for an empty group. The windows must not overlap."""
    rows = reader.fetch_all(
        _SQL["time_groups"],
        {
            "run_id": run_id,
            "share": SLOW_SHARE,
            "numbers": [window.number for window in windows],
            "starts": [window.since for window in windows],
            "ends": [window.until for window in windows],
        },
    )
    return TimeGroups(
        **{
            row["kind"]: TimeGroup(
                row["orders"],
                row["completion_ms"],
                {part: row[f"{part}_ms"] for part in PARTS},
                {int(number): ms for number, ms in (row["disturbed_ms"] or {}).items()},
            )
            for row in rows
        }
    )
