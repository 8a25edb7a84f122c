"""The orders and the counters of the page Stage. Raises DatabaseError."""

from dataclasses import dataclass
from datetime import UTC, datetime

from db import queries
from db.read_models.playback import PlayedOrder, played_order
from db.read_only_database import ReadOnlyDatabase

_SQL = queries.load("stage.sql")

EPOCH = datetime.fromtimestamp(0, UTC)
MAX_ORDERS = 500
"""Orders in flight, and finished orders, that the page shows at most: a row of each is then 1 pixel high."""


@dataclass(frozen=True)
class StageCounters:
    """The orders accepted since a time: all, those with an outcome or past their limit, late, without an
    outcome when twice their limit has passed, and charged several times by the provider."""

    orders: int
    decided: int
    late: int
    lost: int
    charged_twice: int


@dataclass(frozen=True)
class RecentOrders:
    """`now_ms` is the clock of the database. It and the times of acceptance are in ms since EPOCH."""

    now_ms: int
    orders: list[PlayedOrder]


def counters(reader: ReadOnlyDatabase, since: datetime) -> StageCounters:
    row = reader.fetch_one(_SQL["counters"], {"since": since})
    assert row is not None, "an aggregate returns a row"
    return StageCounters(**row)


def recent_orders(reader: ReadOnlyDatabase, seconds: float, max_orders: int = MAX_ORDERS) -> RecentOrders:
    """Return the newest orders in flight, and those that finished within the last seconds."""
    rows = reader.fetch_all(
        _SQL["recent_orders"], {"run_started_at": EPOCH, "seconds": seconds, "max_orders": max_orders}
    )
    now = datetime.now(UTC)
    now_ms = rows[0]["now_ms"] if rows else round(now.timestamp() * 1000)
    return RecentOrders(now_ms, [played_order(row) for row in rows])
