"""The latency report of the API: exact counts, percentiles, and the latency CSV of the finished orders."""

from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass
from datetime import datetime

from db import queries
from db.database import Database, Row
from db.domain import TERMINAL_STATES, State
from db.read_models.latency import Selection
from db.read_only_database import ReadOnlyDatabase

_SQL = queries.load("latency_report.sql")

PERCENTILES = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99, "max": 1.0}

PARTS = (
    "end_to_end", "completion", "ingress", "receive", "validate", "review", "charge", "prepare", "dispatch",
    "compensate", "waiting",
)  # fmt: skip
"""The measured parts of an order's time: the two totals, then their summands."""


@dataclass(frozen=True)
class LatencyFilter:
    """Selects the orders of a run, accepted at or after `since` and before `until`. None: no bound."""

    run_id: str | None = None
    since: datetime | None = None
    until: datetime | None = None

    def parameters(self) -> Row:
        return {
            "run_id": self.run_id,
            "since": self.since,
            "until": self.until,
            "outcome": None,
            "fault_profile": None,
        }


@dataclass(frozen=True)
class Spread:
    """The distribution of one duration over the finished orders, in ms; keys as in PERCENTILES."""

    mean: float
    percentiles: dict[str, int]


@dataclass(frozen=True)
class LatencySummary:
    """Exact counts and percentiles. `late` orders finished after their deadline, `overdue` ones are still
    open.

    `parts` has the keys of PARTS, and is empty without a finished order.
    """

    finished: int
    late: int
    open: int
    overdue: int
    outcomes: dict[State, int]
    parts: dict[str, Spread]


async def latency_summary(database: Database, selected: LatencyFilter) -> LatencySummary:
    row = await database.fetch_one(
        _SQL["latency_summary"], selected.parameters() | {"shares": list(PERCENTILES.values())}
    )
    assert row is not None, "an aggregate returns a row"
    return LatencySummary(
        finished=row["finished"],
        late=row["late"],
        open=row["open"],
        overdue=row["overdue"],
        outcomes={state: row[state.value] for state in TERMINAL_STATES},
        parts={part: _spread(row["parts"][part]) for part in PARTS} if row["parts"] else {},
    )


def stream_latency_csv(database: Database, selected: LatencyFilter) -> AsyncGenerator[bytes, None]:
    """Yield the latency CSV in chunks, oldest order first."""
    return database.copy_csv(_SQL["latency_csv"], selected.parameters())


def latency_csv(database: ReadOnlyDatabase, selected: Selection) -> Iterator[bytes]:
    """Yield the latency CSV of a selection in chunks, equal to the API's byte for byte."""
    return database.copy_out(_SQL["latency_csv"], selected.parameters())


def _spread(measured: Row) -> Spread:
    return Spread(float(measured["mean"]), dict(zip(PERCENTILES, measured["at"], strict=True)))
