"""Admission control: whether one more order can reach its outcome within the limit.

By Little's law, the orders in flight divided by the completion rate is the time that an order takes. So the
API admits as many orders as finish within a share of the limit, at the best completion rate of the last
seconds, and rejects all others with 429. Overload is detected from `waiting_ms` (queueing time) of recently
finished orders, which excludes gateway latency and manual review.
"""

import asyncio
from collections import deque
from time import monotonic

import structlog

from db.database import Database
from db.read_models import order_metrics
from orchestrator.api.timeouts import with_timeout
from orchestrator.errors import DatabaseError, Overloaded
from orchestrator.settings import Settings

POLL_SECONDS = 0.25
RATE_WINDOW_SECONDS = 5.0
RATE_MEMORY_SECONDS = 15.0

TARGET_SHARE = 0.37
"""Target mean completion time as a share of the limit. A mean leaves time for the slowest orders."""

INITIAL_LIMIT = 56
"""Orders admitted before any order has finished: enough for 14 orders/s under the `assignment` faults."""

UNQUEUED_LIMIT = 90
"""Orders admitted at any completion rate while orders are not queueing: room for the orders that accumulate
while killed workers are replaced."""

PICKUP_SECONDS = 0.4
"""An order that a worker recorded within this time was not queued."""

MIN_LIMIT = 16
"""Orders admitted at any completion rate: without orders in flight, no rate could be measured."""

WAITING_SHARE = 0.1
"""The system is overloaded when the median `waiting_ms` exceeds this share of the limit."""

DECREASE_SHARE = 0.02
"""Decrease of the limit at each poll under overload. Slow, so that a killed worker, whose orders wait for
some seconds, does not count as overload."""

RETRY_AFTER_SECONDS = 2
FORGET_SECONDS = 30.0
"""After this time, an admitted order that no worker has recorded no longer counts."""

log = structlog.get_logger()


class ConcurrencyLimiter:
    """Derives how many orders may be in flight from the orders that start and finish."""

    def __init__(self, limit_seconds: float, max_limit: int) -> None:
        self._target_seconds = limit_seconds * TARGET_SHARE
        self._max_waiting_ms = limit_seconds * WAITING_SHARE * 1000
        self._max_limit = max_limit
        self._rates: deque[tuple[float, float]] = deque()
        self._adaptive_limit = float(INITIAL_LIMIT)
        self._sustainable = 0.0

    @property
    def limit(self) -> int:
        return min(max(int(max(self._adaptive_limit, self._sustainable)), MIN_LIMIT), self._max_limit)

    def observe(self, now: float, finished_rate: float, waiting_ms: int | None, unqueued: int) -> None:
        """Adapt the limit.

        `finished_rate` is in orders a second; `waiting_ms` is the median over recently finished orders, None
        without any; `unqueued` is the number of orders picked up within PICKUP_SECONDS since the last call.
        """
        self._rates.append((now, finished_rate))
        while self._rates[0][0] < now - RATE_MEMORY_SECONDS:
            self._rates.popleft()
        self._sustainable = max(rate for _, rate in self._rates) * self._target_seconds
        if waiting_ms is None or waiting_ms <= self._max_waiting_ms:
            self._adaptive_limit = min(
                self._adaptive_limit + unqueued, max(self._adaptive_limit, UNQUEUED_LIMIT)
            )
        elif self._adaptive_limit > self._sustainable:
            self._adaptive_limit *= 1 - DECREASE_SHARE


class Admission:
    """Counts the orders in flight of all API processes, and rejects starts beyond the limit.

    A background task polls the database, so a start costs no query. Between two polls, this process counts
    the orders that it has admitted and no worker has recorded.
    """

    def __init__(self, settings: Settings, database: Database) -> None:
        self._database = database
        self._limiter = ConcurrencyLimiter(settings.order_deadline_seconds, settings.max_in_flight)
        self._recorded = 0
        self._pending: dict[str, float] = {}
        """Admission times of orders that no worker has recorded."""

        self._uncertain: dict[str, float] = {}
        """Admission times of orders whose start failed without a response of Temporal."""

        self.rejected = 0
        """Starts that this process has rejected."""

        self._has_starts = asyncio.Event()

    @property
    def limit(self) -> int:
        return self._limiter.limit

    def admit(self, order_id: str) -> None:
        """Admit an order that is not in the database. Raises Overloaded.

        An order that was admitted before is admitted again: Temporal may have accepted it.
        """
        now = monotonic()
        self._has_starts.set()
        if order_id in self._pending:
            return
        if self._recorded + len(self._pending) >= self.limit:
            self.rejected += 1
            raise Overloaded("too many orders are in flight; try again shortly", RETRY_AFTER_SECONDS)
        self._pending[order_id] = now

    def record_failed_start(self, order_id: str) -> None:
        """Record that Temporal did not respond to the start of an admitted order: it may have accepted it."""
        if (at := self._pending.pop(order_id, None)) is not None:
            self._uncertain[order_id] = at

    def may_have_started(self, order_id: str) -> bool:
        """Return whether the start of this order failed without a response of Temporal."""
        return order_id in self._uncertain

    async def run(self) -> None:
        """Poll the database while orders are in flight, until cancelled."""
        while True:
            if not self._pending and not self._recorded:
                self._has_starts.clear()
                await self._has_starts.wait()
            try:
                await self._poll()
            except DatabaseError as error:
                # Without the database, starts are rejected with 503, and the limit does not change.
                log.warning("cannot count the orders in flight", error=str(error))
            except Exception:
                # The loop must continue: without it, the count only rises, until every start is rejected.
                log.exception("cannot count the orders in flight")
            await asyncio.sleep(POLL_SECONDS)

    async def _poll(self) -> None:
        pending = list(self._pending)
        sample = await with_timeout(order_metrics.load_sample(self._database, pending, RATE_WINDOW_SECONDS))
        now = monotonic()
        self._recorded = sample.in_flight
        unqueued = 0
        for order_id in pending:
            seconds = now - self._pending.get(order_id, now)
            if order_id in sample.stored:
                unqueued += seconds <= PICKUP_SECONDS
                self._pending.pop(order_id, None)
            elif seconds > FORGET_SECONDS:
                self._pending.pop(order_id, None)
        self._uncertain = {id_: at for id_, at in self._uncertain.items() if now - at <= FORGET_SECONDS}
        self._limiter.observe(now, sample.finished / RATE_WINDOW_SECONDS, sample.waiting_ms, unqueued)
