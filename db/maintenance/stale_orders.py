"""Open orders without recent events: their workflow may be lost."""

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
    """Return a page of open orders without an event for `quiet_seconds`, earliest deadline first. `after` is
    the last order of the previous page; a page with fewer than `limit` orders is the last one."""
    parameters = {
        "quiet_seconds": quiet_seconds,
        "after_deadline_at": after.deadline_at if after else None,
        "after_order_id": after.order_id if after else None,
        "limit": limit,
    }
    rows = await database.fetch_all(_SQL["stale_orders"], parameters)
    return [StaleOrder(**row) for row in rows]
