"""Order search, and the details of one order.

Raises DatabaseError, or ValueRejected for a filter that PostgreSQL cannot compare.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from db import queries
from db.database import Row
from db.domain import State
from db.read_only_database import ReadOnlyDatabase

_SQL = queries.load("order_search.sql")
_HISTORY = queries.load("order_details.sql")["order_history"]

FEW_MATCHES = 5_000
"""Below this number of matches, all orders with the prefix are read and sorted. Otherwise the orders are
scanned by acceptance time, from the newest match on, until the page is full."""

MAX_COUNTED = 100_000
"""More matches are not counted, and the scan begins with the newest order. Counting 100,000 takes 30 ms."""


@dataclass(frozen=True)
class Search:
    """Filters; None or False does not filter. `before` is the last order of the previous page."""

    prefix: str | None = None
    run_id: str | None = None
    state: State | None = None
    only_open: bool = False
    only_late: bool = False
    before: tuple[datetime, str] | None = None


@dataclass(frozen=True)
class OrderDetails:
    """One order with its events and running attempts.

    `order` has the columns of `orders`, `read_at`, and as JSON `payment`, `shipment` and the provider
    records `ledger`, `packages` and `parcels`. `events` are oldest first. `running_attempts` have step,
    attempt, started_at, worker.
    """

    order: Row
    events: list[Row]
    running_attempts: list[Row]

    @property
    def has_all_events(self) -> bool:
        """False if retention has deleted the events (`db.maintenance.retention`)."""
        return bool(self.events) and self.events[0]["kind"] == "accepted"


def search(reader: ReadOnlyDatabase, wanted: Search, limit: int) -> list[Row]:
    """Return the first `limit` orders that match all filters, newest first."""
    statement, before = "search", wanted.before
    if wanted.prefix is not None:
        parameters = {"prefix": wanted.prefix, "max_count": MAX_COUNTED}
        found = reader.fetch_one(_SQL["count_matches"], parameters)
        assert found is not None, "an aggregate returns a row"
        if found["orders"] < FEW_MATCHES:
            statement = "search_by_prefix"
        elif found["orders"] < MAX_COUNTED:
            # No order id sorts before the empty one, so this is after all orders accepted at `newest_at`.
            newest = (found["newest_at"] + timedelta(microseconds=1), "")
            before = min(before or newest, newest)
    before_at, before_id = before or (None, None)
    return reader.fetch_all(
        _SQL[statement],
        {
            "prefix": wanted.prefix,
            "run_id": wanted.run_id,
            "state": wanted.state,
            "only_open": wanted.only_open,
            "only_late": wanted.only_late,
            "before_at": before_at,
            "before_id": before_id,
            "limit": limit,
        },
    )


def states(reader: ReadOnlyDatabase, order_ids: Sequence[str]) -> list[Row]:
    """Return order_id, state and abort_reason of these orders, in this order."""
    return reader.fetch_all(_SQL["states"], {"order_ids": list(order_ids)})


def median_order(reader: ReadOnlyDatabase, run_id: str) -> Row | None:
    """Return the finished order of a run with the median completion time: order_id, completion_ms and its
    time breakdown. None for a run without a finished order."""
    return reader.fetch_one(_SQL["median_order"], {"run_id": run_id})


def order_details(reader: ReadOnlyDatabase, order_id: str) -> OrderDetails | None:
    """Return one order, or None if there is no order with this id."""
    parameters = {"order_id": order_id}
    order = reader.fetch_one(_SQL["order"], parameters)
    if order is None:
        return None
    return OrderDetails(
        order,
        # An order without events is one row without a time.
        [row for row in reader.fetch_all(_HISTORY, parameters) if row["at"] is not None],
        reader.fetch_all(_SQL["running_attempts"], parameters),
    )
