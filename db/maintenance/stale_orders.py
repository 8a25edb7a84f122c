"""Which open orders may have lost their workflow."""

from dataclasses import dataclass
from datetime import datetime

from db import queries
from db.database import Database

_SQL = queries.load("stale_orders.sql")


@dataclass(frozen=True)
class StaleOrder:
    order_id: str
    run_id: str | None
    deadline_at: datetime


async def stale_orders(
    database: Database, quiet_seconds: float, *, after: StaleOrder | None = None, limit: int
) -> list[StaleOrder]:
    """A page of the open orders without an event for `quiet_seconds`, the most urgent first; `after` is the
    last one of the page before. Fewer than `limit`: there are no more."""
    parameters = {
        "quiet_seconds": quiet_seconds,
        "after_deadline_at": after.deadline_at if after else None,
        "after_order_id": after.order_id if after else None,
        "limit": limit,
    }
    rows = await database.fetch_all(_SQL["stale_orders"], parameters)
    return [StaleOrder(**row) for row in rows]
