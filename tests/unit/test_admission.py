"""Admission control: the concurrency limiter against simulated order systems of any size."""

from collections import deque
from dataclasses import dataclass, field

import pytest

from db.database import Database
from orchestrator.api.admission import (
    BACKLOG_SHARE,
    MIN_LIMIT,
    POLL_SECONDS,
    RATE_WINDOW_SECONDS,
    RETRY_AFTER_SECONDS,
    TARGET_SHARE,
    Admission,
    ConcurrencyLimiter,
    processing_seconds,
    unqueued_seconds,
)
from orchestrator.errors import Overloaded
from orchestrator.settings import Settings

UNLIMITED = 10**7
UNQUEUED_SECONDS = 0.25
"""Of the simulated gateways."""

NO_FILE = {"_env_file": None}


def settings_of(**settings: float | str) -> Settings:
    return Settings(**NO_FILE, **settings)  # type: ignore[arg-type]


def new_admission(**settings: float | str) -> Admission:
    return Admission(settings_of(**settings), Database("postgresql://user@/nothing"))


# --- ConcurrencyLimiter -----------------------------------------------------------------------------


def test_orders_that_do_not_wait_are_not_limited() -> None:
    limiter = ConcurrencyLimiter(13.0, UNQUEUED_SECONDS, UNLIMITED)
    for poll in range(100):
        limiter.observe(poll * POLL_SECONDS, active=100 * poll, finished_rate=1, waiting_seconds=0.5)
    assert limiter.limit == UNLIMITED
    assert ConcurrencyLimiter(13.0, UNQUEUED_SECONDS, max_limit=200).limit == 200


def test_the_limit_decreases_from_the_active_orders_to_what_the_system_finishes() -> None:
    limiter = ConcurrencyLimiter(13.0, UNQUEUED_SECONDS, UNLIMITED)
    limits = []
    for poll in range(400):
        limiter.observe(poll * POLL_SECONDS, active=100, finished_rate=10, waiting_seconds=4.0)
        limits.append(limiter.limit)
    assert limits[0] == 98
    assert limits[16] > 60, "orders of a killed worker wait for 4 s, which is not overload"
    assert limits[-1] == int(10 * 13.0 * TARGET_SHARE)


def test_the_limit_never_falls_below_its_minimum_and_recovers() -> None:
    limiter = ConcurrencyLimiter(13.0, UNQUEUED_SECONDS, UNLIMITED)
    for poll in range(400):
        limiter.observe(poll * POLL_SECONDS, active=5, finished_rate=0, waiting_seconds=10.0)
    assert limiter.limit == MIN_LIMIT
    for poll in range(400, 600):
        limiter.observe(poll * POLL_SECONDS, active=5, finished_rate=0, waiting_seconds=0.1)
    assert limiter.limit > 1_000


def test_an_order_in_a_long_gateway_call_does_not_wait() -> None:
    assert unqueued_seconds(settings_of()) == pytest.approx(UNQUEUED_SECONDS)
    unqueued = unqueued_seconds(settings_of(carrier_calls="timeout=3 need=3", order_deadline_seconds=60))
    assert unqueued == pytest.approx(3.05)
    limiter = ConcurrencyLimiter(13.0, unqueued, UNLIMITED)
    for poll in range(100):
        # The only order in flight is in a call, which is no outage.
        limiter.observe(poll * POLL_SECONDS, 1, finished_rate=0.2, waiting_seconds=0.0, quiet_seconds=2.9)
    assert limiter.limit == UNLIMITED
    assert limiter.evidence_since == 0.0


@pytest.mark.parametrize(
    ("limit", "review", "processing"),
    [(15.0, 2.0, 13.0), (15.0, 8.0, 7.0), (15.0, 60.0, 6.05), (3_600.0, 0.0, 3_600.0)],
)
def test_the_time_for_processing_excludes_the_automatic_review(
    limit: float, review: float, processing: float
) -> None:
    settings = settings_of(order_deadline_seconds=limit, auto_review_seconds=review)
    assert processing_seconds(settings) == pytest.approx(processing)


# --- Simulated systems ------------------------------------------------------------------------------


@dataclass
class Batch:
    """Orders that take the same way at the same time. `work` is the share of an order's work that is left in
    the current queue."""

    orders: float
    accepted_at: float
    queued_at: float
    work: float
    waited: float = 0.0


@dataclass
class SimulatedSystem:
    """Finishes at most `capacity` orders a second, in the order of arrival. The intake of an order is 40 % of
    its work. The review, and the calls to gateways, take time but no capacity. Uses the limiter as the API
    does. `longest_wait` counts orders that were accepted from `counted_from` on."""

    capacity: float
    limit: float
    review: float
    rejected: float = 0.0
    accepted: float = 0.0
    longest_wait: float = 0.0
    counted_from: float = 0.0
    limiter: ConcurrencyLimiter = field(init=False)

    INTAKE = 0.4

    def __post_init__(self) -> None:
        settings = settings_of(order_deadline_seconds=self.limit, auto_review_seconds=self.review)
        self.processing = processing_seconds(settings)
        self.review = self.limit - self.processing
        self.gateway_seconds = min(1.5, 0.1 * self.limit)
        self.limiter = ConcurrencyLimiter(self.processing, UNQUEUED_SECONDS, UNLIMITED)
        self.now = 0.0
        self._queue: deque[Batch] = deque()
        self._in_review: deque[tuple[float, Batch]] = deque()
        self._at_gateway: deque[tuple[float, Batch]] = deque()
        self._finished: deque[tuple[float, Batch]] = deque()
        self.queued = 0.0
        self.active = 0.0
        self._progress_at = 0.0

    def run(self, rate: float, seconds: float) -> None:
        until = self.now + seconds
        while self.now < until:
            self.now += POLL_SECONDS
            self._arrive(rate * POLL_SECONDS)
            self._work(self.capacity * POLL_SECONDS)
            self._observe()

    def stop_workers(self, rate: float, seconds: float) -> None:
        """Orders arrive, and nothing processes them."""
        until = self.now + seconds
        while self.now < until:
            self.now += POLL_SECONDS
            self._arrive(rate * POLL_SECONDS)
            self._observe()
        self._count_from_now()

    def stop_database(self, rate: float, seconds: float) -> None:
        """Starts are refused; the clients retry them together when the database responds."""
        until = self.now + seconds
        while self.now < until:
            self.now += POLL_SECONDS
            self.limiter.observe_outage(self.now)
        self._count_from_now()
        self.retry(rate * seconds)

    def retry(self, starts: float) -> None:
        """Send starts, and those that are rejected again after RETRY_AFTER_SECONDS."""
        while starts > 1e-9:
            rejected = self.rejected
            self._arrive(starts)
            starts = self.rejected - rejected
            self.run(0.0, RETRY_AFTER_SECONDS)

    def _count_from_now(self) -> None:
        self.counted_from, self.longest_wait, self.rejected = self.now, 0.0, 0.0

    def _arrive(self, orders: float) -> None:
        admitted = max(min(orders, self.limiter.limit - self.active), 0.0)
        self.accepted += admitted
        self.rejected += orders - admitted
        if admitted:
            self._enqueue(Batch(admitted, self.now, self.now, self.INTAKE))
        while self._in_review and self._in_review[0][0] <= self.now:
            batch = self._in_review.popleft()[1]
            self._enqueue(Batch(batch.orders, batch.accepted_at, self.now, 1 - self.INTAKE, batch.waited))

    def _enqueue(self, batch: Batch) -> None:
        self._queue.append(batch)
        self.queued += batch.orders
        self.active += batch.orders

    def _work(self, capacity: float) -> None:
        while self._queue and capacity > 1e-9:
            batch = self._queue[0]
            done = min(batch.orders, capacity / batch.work)
            capacity -= done * batch.work
            batch.orders -= done
            self.queued -= done
            waited = batch.waited + self.now - batch.queued_at
            part = Batch(done, batch.accepted_at, self.now, batch.work, waited)
            self._progress_at = self.now
            if batch.work == self.INTAKE:
                self.active -= done
                self._in_review.append((self.now + self.review, part))
            else:
                self._at_gateway.append((self.now + self.gateway_seconds, part))
            if batch.orders <= 1e-9:
                self._queue.popleft()
        while self._at_gateway and self._at_gateway[0][0] <= self.now:
            batch = self._at_gateway.popleft()[1]
            self.active -= batch.orders
            self._finished.append((self.now, batch))
            self._progress_at = self.now
            if batch.accepted_at >= self.counted_from:
                self.longest_wait = max(self.longest_wait, batch.waited)

    def _observe(self) -> None:
        while self._finished and self._finished[0][0] <= self.now - RATE_WINDOW_SECONDS:
            self._finished.popleft()
        since = self.limiter.evidence_since
        is_mostly_queued = self._queue and self.queued > self.active / 2
        idle = self.now - max(self._queue[0].queued_at, since) if is_mostly_queued else 0.0
        self.limiter.observe(
            self.now,
            active=round(self.active),
            finished_rate=sum(each.orders for _, each in self._finished) / RATE_WINDOW_SECONDS,
            # The median of half the longest time in a queue, of two queues.
            waiting_seconds=max(
                (idle / 2 - UNQUEUED_SECONDS) * 2,
                _median(
                    [(each.waited, each.orders) for _, each in self._finished if each.accepted_at >= since]
                ),
            ),
            quiet_seconds=self.now - self._progress_at if self.active else 0.0,
        )


def _median(weighted: list[tuple[float, float]]) -> float:
    half, seen = sum(orders for _, orders in weighted) / 2, 0.0
    for value, orders in sorted(weighted):
        seen += orders
        if seen >= half:
            return value
    return 0.0


SYSTEMS = [
    (limit, capacity, review)
    for limit in (5.0, 15.0, 60.0, 3_600.0)
    for capacity in (10.0, 2_000.0)
    for review in (0.0, 0.5 * limit, 0.9 * limit)
]


@pytest.mark.parametrize(("limit", "capacity", "review"), SYSTEMS)
def test_a_system_that_keeps_up_rejects_nothing(limit: float, capacity: float, review: float) -> None:
    system = SimulatedSystem(capacity, limit, review)
    for share in (0.9, 0.1, 0.95):
        system.run(rate=share * capacity, seconds=60 + system.review)
    assert system.rejected == 0


@pytest.mark.parametrize(("limit", "capacity", "review"), SYSTEMS)
def test_an_overload_is_rejected_and_accepted_orders_keep_their_limit(
    limit: float, capacity: float, review: float
) -> None:
    system = SimulatedSystem(capacity, limit, review)
    system.run(rate=0.8 * capacity, seconds=60 + system.review)
    assert system.rejected == 0
    accepted, seconds = system.accepted, max(2 * limit, 120.0)
    system.run(rate=2 * capacity, seconds=seconds)
    assert system.longest_wait + system.gateway_seconds <= system.processing
    assert system.rejected > 0.5 * capacity * seconds
    assert system.accepted - accepted > 0.8 * capacity * seconds, "the throughput stays near the capacity"
    # The orders that were accepted during the overload finish, and then nothing is rejected.
    system.run(rate=0.5 * capacity, seconds=0.6 * system.processing + 3 * system.review)
    rejected = system.rejected
    system.run(rate=0.8 * capacity, seconds=60 + system.review)
    assert system.rejected == rejected


OUTAGES = [(rate, seconds) for rate in (2.0, 7.0, 200.0) for seconds in (5.0, 20.0, 60.0)]


@pytest.mark.parametrize(("rate", "seconds"), OUTAGES)
@pytest.mark.parametrize("utilization", [0.1, 0.4, 0.9])
def test_after_an_outage_of_all_workers_orders_are_accepted_and_keep_their_limit(
    rate: float, seconds: float, utilization: float
) -> None:
    system = SimulatedSystem(rate / utilization, 15.0, 2.0)
    system.run(rate, 60)
    assert system.rejected == 0
    system.stop_workers(rate, seconds)
    system.run(rate, 120)
    assert system.longest_wait + system.gateway_seconds <= system.processing
    if utilization < 0.9:
        # The first poll after the outage shows that orders progress again.
        assert system.rejected <= rate * POLL_SECONDS


@pytest.mark.parametrize(("rate", "seconds"), OUTAGES)
def test_an_outage_of_all_workers_rejects_what_would_have_to_wait_too_long(
    rate: float, seconds: float
) -> None:
    system = SimulatedSystem(rate / 0.4, 15.0, 2.0)
    system.run(rate, 60)
    accepted = system.accepted
    system.stop_workers(rate, seconds)
    accepted_seconds = (system.accepted - accepted) / rate
    assert accepted_seconds >= min(seconds, 0.4 * system.processing)
    assert accepted_seconds <= BACKLOG_SHARE * system.processing + 2 * POLL_SECONDS


@pytest.mark.parametrize(("rate", "seconds"), OUTAGES)
@pytest.mark.parametrize("utilization", [0.1, 0.4])
def test_after_an_outage_of_the_database_retried_starts_are_accepted_within_seconds(
    rate: float, seconds: float, utilization: float
) -> None:
    system = SimulatedSystem(rate / utilization, 15.0, 2.0)
    system.run(rate, 60)
    system.stop_database(rate, seconds)
    if seconds == 5.0:
        assert system.rejected == 0
    assert system.now - system.counted_from <= rate * seconds / system.capacity + 3 * RETRY_AFTER_SECONDS
    assert system.longest_wait + system.gateway_seconds <= system.processing
    if seconds < 60.0:
        rejected = system.rejected
        system.run(rate, 60)
        assert system.rejected == rejected


@pytest.mark.parametrize("seconds", [5.0, 20.0, 60.0])
def test_an_overload_is_rejected_after_an_outage_too(seconds: float) -> None:
    system = SimulatedSystem(20.0, 15.0, 2.0)
    system.run(rate=40.0, seconds=60)
    system.stop_workers(rate=40.0, seconds=seconds)
    accepted = system.accepted
    system.run(rate=40.0, seconds=60)
    assert system.longest_wait + system.gateway_seconds <= system.processing
    assert system.accepted - accepted > 0.8 * system.capacity * 60


@pytest.mark.parametrize("capacity", [10.0, 2_000.0])
@pytest.mark.parametrize("limit", [5.0, 15.0, 3_600.0])
def test_an_overload_from_the_first_order_on_is_rejected(limit: float, capacity: float) -> None:
    system = SimulatedSystem(capacity, limit, 0.2 * limit)
    system.run(rate=2 * capacity, seconds=max(2 * limit, 120.0))
    assert system.longest_wait + system.gateway_seconds <= system.processing
    assert system.rejected > 0


# --- Admission --------------------------------------------------------------------------------------


def test_starts_beyond_the_limit_are_rejected_and_a_repeat_is_admitted() -> None:
    admission = new_admission(max_in_flight=2)
    admission.admit("a")
    admission.admit("b")
    with pytest.raises(Overloaded, match="in flight") as rejected:
        admission.admit("c")
    assert rejected.value.retry_after_seconds >= 1
    admission.admit("a")
    assert (admission.limit, admission.rejected) == (2, 1)


def test_a_failed_start_does_not_count_as_in_flight_and_is_remembered() -> None:
    admission = new_admission(max_in_flight=1)
    admission.admit("a")
    assert not admission.may_have_started("a")
    admission.record_failed_start("a")
    assert admission.may_have_started("a")
    admission.admit("b")
