"""Admission control: whether one more order can reach its outcome within the limit.

An order counts as active while it needs workers: not during its review, and not between two attempts of a
compensation that keeps failing. The number of active orders is not limited until orders wait in queues. Then
the limit decreases, from the number of active orders, and increases again when they do not wait any more. Its
lower bound is the best completion rate of the last seconds times a share of the order's limit (Little's law).
Starts beyond the limit are rejected with 429.

During an outage no order progresses. The queueing times of orders that an outage delayed do not show an
overload, so they do not change the limit. docs/explanation/admission-control.md has the simulations.
"""

import asyncio
import math
from collections import deque
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from statistics import median
from time import monotonic

import structlog

from db import rejected_starts
from db.database import Database
from db.domain import Step
from db.read_models import order_metrics
from orchestrator.api.timeouts import with_timeout
from orchestrator.deadlines import OrderDeadlines
from orchestrator.errors import DatabaseError, Overloaded
from orchestrator.gateways.registry import time_needs
from orchestrator.settings import Settings

POLL_SECONDS = 0.25
POLL_SHARE = 0.1
"""Maximum share of the time in polls. With very many orders in flight, polls are less frequent."""

RATE_WINDOW_SECONDS = 5.0
RATE_MEMORY_SECONDS = 15.0

TARGET_SHARE = 0.22
"""Mean time that an order may be active, as a share of the limit without the review. The rest is for orders
that take longer."""

WAITING_SHARE = 0.1
"""Orders wait when the median queueing time exceeds this share of the limit without the review."""

QUEUES = 4
"""Queues in which an order waits: for its intake, payment, shipment and outcome. The time since the last
event of an order is its time in one of them, so it is multiplied by this number."""

CALL_MARGIN_SECONDS = 0.05
"""Time between two events of an order that does not wait, besides its gateway call."""

HALVING_SHARE = 0.66
"""Time in which the concurrency limit halves while orders wait, and doubles while they do not, as a share of
the order's limit without the review: 2 % per poll for 15 s. Slow, because orders also wait for some seconds
when their worker is killed."""

BACKLOG_SHARE = 0.7
"""After an outage, new orders wait for the orders that it has delayed. Orders are accepted for this share of
the limit without the review, counted from the begin of the outage, or as many as finish in that time at the
known completion rate. The rest of the limit is for the order itself."""

MIN_LIMIT = 8
"""Lower bound of the limit at any completion rate: with fewer active orders, no rate can be measured."""

RETRY_AFTER_SECONDS = 2
RECORD_SECONDS = 1.0
FORGET_SECONDS = 30.0
"""After this time, an admitted order that no worker has recorded no longer counts."""

log = structlog.get_logger()


@dataclass
class Outage:
    """An outage, from its begin until the orders that it has delayed have finished."""

    began_at: float
    ended_at: float
    """Last time at which no order progressed."""

    backlog: float = math.inf
    """Active orders when the outage had lasted for BACKLOG_SHARE of the limit; inf before."""


class ConcurrencyLimiter:
    """Derives how many orders may be active from queueing times and the completion rate.

    `processing_seconds` is the limit of an order without its review, and `unqueued_seconds` the longest time
    without an event of an order that does not wait.

    Without an outage, the limit follows queueing times. An outage begins when no order progresses
    (`observe_outage`) and ends when the orders that it has delayed have finished (`_recover`). Until then,
    the limit is the number of orders that can finish in time behind the delayed ones.
    """

    def __init__(self, processing_seconds: float, unqueued_seconds: float, max_limit: int) -> None:
        self._processing_seconds = processing_seconds
        self._backlog_seconds = processing_seconds * BACKLOG_SHARE
        self._max_waiting_seconds = processing_seconds * WAITING_SHARE
        self._max_unqueued_seconds = unqueued_seconds + self._max_waiting_seconds / QUEUES
        self._max_quiet_seconds = max(self._max_waiting_seconds, self._max_unqueued_seconds)
        self._change = 2 ** (POLL_SECONDS / (processing_seconds * HALVING_SHARE))
        self._max_limit = max_limit
        self._rates: deque[tuple[float, float]] = deque()
        self._best_rate = 0.0
        self._adaptive_limit = float(max_limit)
        self._active = 0
        self._outage: Outage | None = None
        self.evidence_since = 0.0
        """Queueing times of orders that were accepted earlier do not show an overload: an outage delayed
        them."""

    @property
    def limit(self) -> int:
        limit = self._adaptive_limit
        if self._outage is not None:
            limit = min(limit, max(self._outage.backlog, self._best_rate * self._backlog_seconds))
        return min(max(int(max(limit, self._sustainable)), MIN_LIMIT), self._max_limit)

    @property
    def _sustainable(self) -> float:
        return self._best_rate * self._processing_seconds * TARGET_SHARE

    def observe(
        self,
        now: float,
        active: int,
        finished_rate: float,
        waiting_seconds: float,
        quiet_seconds: float = 0.0,
    ) -> None:
        """Adapt the limit.

        `active` is the number of active orders, `finished_rate` in orders a second, `waiting_seconds` the
        current queueing time of an order accepted since `evidence_since`, and `quiet_seconds` the time in
        which no order has progressed.
        """
        self._active = active
        if self._best_rate and quiet_seconds > self._max_quiet_seconds:
            self.observe_outage(now, quiet_seconds)
            return
        self._record_rate(now, finished_rate)
        if self._outage is not None:
            self._recover(now, self._outage)
        elif not self._best_rate or quiet_seconds <= self._max_unqueued_seconds:
            self._adapt(waiting_seconds)
        # Otherwise this may be the begin of an outage: in an overload some orders progress at any time.

    def observe_outage(self, now: float, quiet_seconds: float = 0.0) -> None:
        """Record that no order has progressed for `quiet_seconds`, or that the database is unavailable."""
        # The rates from before the outage stay the best known ones.
        paused = now - (self._rates[-1][0] if self._rates else now)
        self._rates = deque((at + paused, rate) for at, rate in self._rates)
        if self._outage is None:
            self._outage = Outage(now - quiet_seconds, now)
        self._outage.ended_at = now
        self._limit_backlog(now, self._outage)

    def _record_rate(self, now: float, finished_rate: float) -> None:
        self._rates.append((now, finished_rate))
        while self._rates[0][0] < now - RATE_MEMORY_SECONDS:
            self._rates.popleft()
        self._best_rate = max(rate for _, rate in self._rates)

    def _adapt(self, waiting_seconds: float) -> None:
        """Decrease the limit while orders wait in queues, and increase it while they do not."""
        if self._active == 0:
            self._adaptive_limit = self._max_limit
        elif waiting_seconds > self._max_waiting_seconds:
            self._adaptive_limit = min(self._adaptive_limit, self._active) / self._change
        else:
            increased = max(self._adaptive_limit, self._sustainable) * self._change + 1
            self._adaptive_limit = min(increased, self._max_limit)

    def _recover(self, now: float, outage: Outage) -> None:
        """End the outage when the orders that it has delayed have finished."""
        seconds = now - outage.ended_at
        is_backlog_finished = seconds > RATE_WINDOW_SECONDS and self._active <= self._sustainable
        if self._active == 0 or is_backlog_finished or seconds > self._processing_seconds:
            self._outage, self.evidence_since = None, now
        else:
            self._limit_backlog(now, outage)

    def _limit_backlog(self, now: float, outage: Outage) -> None:
        if outage.backlog == math.inf and now - outage.began_at > self._backlog_seconds:
            outage.backlog = self._active


class Admission:
    """Counts the active orders of all API processes, and rejects starts beyond the limit.

    A background task polls the database, so a start costs no query. Between two polls, this process counts
    the orders that it has admitted and no worker has recorded.
    """

    def __init__(self, settings: Settings, database: Database) -> None:
        self._database = database
        self._unqueued_seconds = unqueued_seconds(settings)
        self._limiter = ConcurrencyLimiter(
            processing_seconds(settings), self._unqueued_seconds, settings.max_in_flight
        )
        self._active = 0
        """Active orders in the database."""

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
        if self._active + len(self._pending) >= self.limit:
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
            if not self._pending and not self._active:
                self._has_starts.clear()
                await self._has_starts.wait()
            began_at = monotonic()
            try:
                await self._poll()
            except DatabaseError as error:
                # Without the database, starts are rejected with 503.
                log.warning("cannot count the active orders", error=str(error))
                self._limiter.observe_outage(monotonic())
            await asyncio.sleep(max(POLL_SECONDS, (monotonic() - began_at) / POLL_SHARE))

    async def record_rejections(self) -> None:
        """Store how many starts were rejected, once a second if there were any, until cancelled."""
        recorded = 0
        while True:
            await asyncio.sleep(RECORD_SECONDS)
            rejected = self.rejected
            if rejected == recorded:
                continue
            try:
                await with_timeout(rejected_starts.record(self._database, rejected - recorded))
            except DatabaseError as error:
                log.warning("cannot store the rejected starts", error=str(error))
            else:
                recorded = rejected

    async def _poll(self) -> None:
        pending = list(self._pending)
        now = monotonic()
        evidence_seconds = now - self._limiter.evidence_since
        sample = await with_timeout(
            order_metrics.load_sample(self._database, pending, RATE_WINDOW_SECONDS, evidence_seconds)
        )
        now = monotonic()
        self._active = sample.active
        for order_id in pending:
            if order_id in sample.stored or now - self._pending.get(order_id, now) > FORGET_SECONDS:
                self._pending.pop(order_id, None)
        self._uncertain = {id_: at for id_, at in self._uncertain.items() if now - at <= FORGET_SECONDS}
        ages = [now - at for at in self._pending.values()]
        pending_seconds = median([age for age in ages if age < evidence_seconds] or [0.0])
        queue_seconds = max(sample.idle_seconds or 0.0, pending_seconds) - self._unqueued_seconds
        quiet_seconds = max(ages, default=0.0) if sample.quiet_seconds is None else sample.quiet_seconds
        self._limiter.observe(
            now,
            active=self._active + len(self._pending),
            finished_rate=sample.finished / RATE_WINDOW_SECONDS,
            waiting_seconds=max((sample.waiting_ms or 0) / 1000, queue_seconds * QUEUES),
            quiet_seconds=quiet_seconds if self._active or self._pending else 0.0,
        )


def unqueued_seconds(settings: Settings) -> float:
    """Return the longest time without an event of an order that does not wait: one gateway call."""
    return time_needs(settings).longest_attempt + CALL_MARGIN_SECONDS


def processing_seconds(settings: Settings) -> float:
    """Return how much of the limit is left to an order whose review is automatic."""
    now = datetime.now(UTC)
    deadlines = OrderDeadlines(now, settings.order_limit, time_needs(settings))
    longest_review = max(deadlines.not_after(Step.REVIEW) - now, timedelta(0))
    review = min(timedelta(seconds=settings.auto_review_seconds), longest_review)
    return (settings.order_limit - review).total_seconds()
