"""Order search, and the details of one order. Raises DatabaseError."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from db import queries
from db.database import Row
from db.domain import State
from db.read_only_database import ReadOnlyDatabase

_SQL = queries.load("order_search.sql")
_HISTORY = queries.load("order_details.sql")["order_history"]

FEW_MATCHES = 5_000
"""Below this number of matches, all orders with the prefix are read. Otherwise the orders are read from the
newest one on until the page is full."""


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
    before_at, before_id = wanted.before or (None, None)
    return reader.fetch_all(
        _SQL["search_by_prefix" if _has_few_matches(reader, wanted.prefix) else "search"],
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


def _has_few_matches(reader: ReadOnlyDatabase, prefix: str | None) -> bool:
    if prefix is None:
        return False
    found = reader.fetch_one(_SQL["count_matches"], {"prefix": prefix, "max_count": FEW_MATCHES})
    return found is not None and found["orders"] < FEW_MATCHES


def median_order(reader: ReadOnlyDatabase, run_id: str) -> Row | None:
    """Return the finished order of a run with the median completion time: order_id, completion_ms and its
    parts. None for a run without a finished order."""
    return reader.fetch_one(_SQL["median_order"], {"run_id": run_id})


def order_details(reader: ReadOnlyDatabase, order_id: str) -> OrderDetails | None:
    """Return one order, or None if there is no order with this id."""
    parameters = {"order_id": order_id}
    order = reader.fetch_one(_SQL["order"], parameters)
    if order is None:
        return None
    return OrderDetails(
        order,
        [row for row in reader.fetch_all(_HISTORY, parameters) if row["at"] is not None],
        reader.fetch_all(_SQL["running_attempts"], parameters),
    )
