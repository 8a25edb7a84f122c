"""Counts of all orders, for the Prometheus metrics and the admission control of the API."""

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass

from db import queries
from db.database import Database
from db.domain import QUICK_ATTEMPTS, State

_SQL = queries.load("order_metrics.sql")


@dataclass(frozen=True)
class Counters:
    """Totals of all finished orders and their gateway calls.

    `finished_upto` has the number of orders in each bucket of completion times, by its upper edge in ms.
    """

    finished: dict[State, int]
    late: int
    attempts: dict[str, int]
    finished_upto: dict[int, int]
    completion_ms: int


@dataclass(frozen=True)
class OpenOrders:
    """Orders without an outcome. `overdue` are past their limit; `compensating` are aborted; the refund or
    recall of those in `compensation_delayed` has failed QUICK_ATTEMPTS times; `least_seconds_left` is the
    time until the nearest deadline, None without an open order. `is_reconciler_stopped`: it found more
    orphaned orders than it may close without confirmation."""

    orders: int
    overdue: int
    compensating: int
    compensating_overdue: int
    compensation_delayed: int
    in_review: int
    least_seconds_left: float | None
    is_reconciler_stopped: bool = False

    @property
    def active(self) -> int:
        return self.orders - self.compensation_delayed - self.in_review


@dataclass(frozen=True)
class LoadSample:
    """The current load.

    `active` excludes the orders in flight that await a review or are between two attempts of a compensation.
    `idle_seconds` is the median time since their last event, None without any. `stored` are those of the
    given orders that are in the database. `finished` counts the orders that finished within their limit in
    the last seconds; `waiting_ms` is the median queueing time of the completed ones, None without any.
    `quiet_seconds` is the time since the last event of any order, None without an order.
    """

    active: int
    idle_seconds: float | None
    quiet_seconds: float | None
    finished: int
    waiting_ms: int | None
    stored: frozenset[str]


async def counters(database: Database) -> Counters:
    """Return the totals, from the rollup: the cost does not depend on the number of orders."""
    finished: Counter[State] = Counter()
    attempts: Counter[str] = Counter()
    finished_upto: Counter[int] = Counter()
    late = completion_ms = 0
    for row in await database.fetch_all(_SQL["counters"]):
        finished[State(row["outcome"])] += row["orders"]
        finished_upto[row["upto_ms"]] += row["orders"]
        completion_ms += row["completion_ms"]
        late += row["late"]
        attempts["ok"] += row["attempts"] - row["failed_attempts"]
        attempts["timeout"] += row["timed_out_attempts"]
        attempts["error"] += row["failed_attempts"] - row["timed_out_attempts"]
    return Counters(dict(finished), late, dict(attempts), dict(finished_upto), completion_ms)


async def open_orders(database: Database) -> OpenOrders:
    """Return counts of the open orders, from an index that holds only these."""
    row = await database.fetch_one(_SQL["open_orders"], {"quick_attempts": QUICK_ATTEMPTS})
    assert row is not None, "an aggregate returns a row"
    return OpenOrders(**row)


async def load_sample(
    database: Database, order_ids: Collection[str], seconds: float, evidence_seconds: float
) -> LoadSample:
    """Return the current load, with the orders that finished in the last `seconds`.

    Queueing times are those of orders that were accepted in the last `evidence_seconds`.
    """
    parameters = {
        "order_ids": list(order_ids),
        "seconds": seconds,
        "evidence_seconds": evidence_seconds,
        "quick_attempts": QUICK_ATTEMPTS,
    }
    row = await database.fetch_one(_SQL["load_sample"], parameters)
    assert row is not None, "an aggregate returns a row"
    return LoadSample(**row | {"stored": frozenset(row["stored"])})
