"""The latency report of the API: exact counts, percentiles, and the latency CSV of the finished orders."""

from collections.abc import AsyncGenerator, Iterator

from db import queries
from db.database import Database, Row
from db.read_models.latency import LatencyFilter, Selection
from db.read_only_database import ReadOnlyDatabase

_SQL = queries.load("latency_report.sql")


async def latency_summary(database: Database, selected: LatencyFilter) -> Row:
    """Return finished, late, open, overdue, outcomes (orders by state) and parts.

    Open `overdue` orders are past their limit; `late` includes them.

    `parts` has the two total times, then their summands, each as an object with mean, p50, p90, p95, p99 and
    max in ms; None without a finished order.
    """
    row = await database.fetch_one(_SQL["latency_summary"], selected.parameters())
    assert row is not None, "an aggregate returns a row"
    return row


def stream_latency_csv(database: Database, selected: LatencyFilter) -> AsyncGenerator[bytes, None]:
    """Yield the latency CSV in chunks, oldest order first."""
    return database.copy_csv(_SQL["latency_csv"], selected.parameters())


def latency_csv(database: ReadOnlyDatabase, selected: Selection) -> Iterator[bytes]:
    """Yield the latency CSV of a selection in chunks, equal to the API's byte for byte."""
    return database.copy_out(_SQL["latency_csv"], selected.parameters())
