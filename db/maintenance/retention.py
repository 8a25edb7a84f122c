"""Retention of events: deletes the events of old orders in small batches.

Only events are deleted. Orders, payments, shipments, the provider ledger and the rollups stay, so counts,
latencies and balances do not change; only the history of old orders is lost.
"""

from dataclasses import asdict, dataclass
from datetime import datetime, timedelta

import psycopg

from db import queries
from db.database import Database, Row
from db.errors import OrderSystemError

_SQL = queries.load("retention.sql")

BATCH_ORDERS = 1_000
"""About 15,000 events: a batch is a short transaction, so vacuum can reuse the space early."""


class RetentionRejected(OrderSystemError):
    """Only the owner of the table events can delete from it. Use the URL of the user that migrates."""


@dataclass
class RetentionReport:
    """The result of a deletion, or the preview of one in a dry run.

    `orders` counts the orders accepted before `cutoff` whose events are deleted, `events` counts these events
    (0 in a dry run). `oldest_open_at` is the acceptance time of the oldest open order.
    """

    cutoff: datetime
    oldest_open_at: datetime | None
    orders: int = 0
    events: int = 0

    def to_json(self) -> Row:
        oldest_open_at = None if self.oldest_open_at is None else self.oldest_open_at.isoformat()
        return asdict(self) | {"cutoff": self.cutoff.isoformat(), "oldest_open_at": oldest_open_at}


async def delete_expired(database: Database, keep: timedelta, *, dry_run: bool = False) -> RetentionReport:
    """Delete the events of orders that were accepted longer than `keep` ago and before the oldest open order.

    With `dry_run`, only count the orders. Raises RetentionRejected when the user has no permission to delete.
    """
    row = await database.fetch_one(_SQL["cutoff"], {"keep": keep})
    assert row is not None, "an aggregate returns a row"
    report = RetentionReport(**row)
    if dry_run:
        counted = await database.fetch_one(_SQL["count_expired"], {"cutoff": report.cutoff})
        report.orders = counted["orders"] if counted else 0
        return report
    parameters = {"cutoff": report.cutoff, "orders": BATCH_ORDERS}
    try:
        while deleted := await database.fetch_one(_SQL["delete_batch"], parameters):
            report.orders += deleted["orders"]
            report.events += deleted["events"]
    except psycopg.errors.InsufficientPrivilege as error:
        raise RetentionRejected from error
    return report
