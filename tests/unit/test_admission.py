"""Admission control: the concurrency limiter against a simulated order system of known capacity."""

from dataclasses import dataclass, field

import pytest

from db.database import Database
from orchestrator.api.admission import (
    INITIAL_LIMIT,
    MIN_LIMIT,
    PICKUP_SECONDS,
    POLL_SECONDS,
    RATE_WINDOW_SECONDS,
    TARGET_SHARE,
    UNQUEUED_LIMIT,
    Admission,
    ConcurrencyLimiter,
)
from orchestrator.errors import Overloaded
from orchestrator.settings import Settings

LIMIT_SECONDS = 15.0
NO_FILE = {"_env_file": None}


def new_admission(**settings: float) -> Admission:
    return Admission(Settings(**NO_FILE, **settings), Database("postgresql://user@/nothing"))  # type: ignore[arg-type]


def new_limiter(max_limit: int = 1_000) -> ConcurrencyLimiter:
    return ConcurrencyLimiter(LIMIT_SECONDS, max_limit)


# --- ConcurrencyLimiter -----------------------------------------------------------------------------


def test_the_limit_grows_with_orders_that_are_not_queued() -> None:
    limiter = new_limiter()
    assert limiter.limit == INITIAL_LIMIT
    limiter.observe(0.0, finished_rate=0, waiting_ms=None, unqueued=10)
    assert limiter.limit == INITIAL_LIMIT + 10
    limiter.observe(0.25, finished_rate=0, waiting_ms=None, unqueued=1_000)
    assert limiter.limit == UNQUEUED_LIMIT


def test_the_limit_follows_the_completion_rate_of_a_larger_system() -> None:
    limiter = new_limiter()
    limiter.observe(0.0, finished_rate=100, waiting_ms=50, unqueued=0)
    assert limiter.limit == pytest.approx(100 * LIMIT_SECONDS * TARGET_SHARE)
    assert new_limiter(max_limit=200).limit <= 200


def test_the_limit_shrinks_slowly_to_the_sustainable_number_while_orders_queue() -> None:
    limiter = new_limiter()
    limiter.observe(0.0, finished_rate=0, waiting_ms=None, unqueued=UNQUEUED_LIMIT)
    limits = []
    for poll in range(400):
        limiter.observe(poll * POLL_SECONDS, finished_rate=6, waiting_ms=4_000, unqueued=3)
        limits.append(limiter.limit)
    assert limits[16] > UNQUEUED_LIMIT * 0.7, "a killed worker delays orders for 4 s, which is not overload"
    assert limits[-1] == int(6 * LIMIT_SECONDS * TARGET_SHARE)


def test_the_limit_never_shrinks_below_its_minimum() -> None:
    limiter = new_limiter()
    for poll in range(1_000):
        limiter.observe(poll * POLL_SECONDS, finished_rate=0, waiting_ms=14_000, unqueued=0)
    assert limiter.limit == MIN_LIMIT


@dataclass
class SimulatedSystem:
    """Finishes at most `capacity` orders a second. An order takes 3.6 s without load; beyond the capacity,
    all orders slow down equally. Uses the limiter as the API does."""

    capacity: float
    limiter: ConcurrencyLimiter = field(default_factory=new_limiter)
    longest_seconds: float = 0.0
    finished: int = 0
    rejected: int = 0

    def run(self, rate: float, seconds: float) -> None:
        tick, unloaded_seconds = 0.05, 3.6
        in_flight: list[tuple[float, float]] = []  # start time, remaining work in seconds
        recent: list[tuple[float, float]] = []  # finish time, duration
        arrivals, started, poll_at = 0.0, 0, 0.0
        for step in range(round(seconds / tick)):
            now = step * tick
            arrivals += rate * tick
            while arrivals >= 1:
                arrivals -= 1
                if len(in_flight) < self.limiter.limit:
                    in_flight.append((now, unloaded_seconds))
                    started += 1
                else:
                    self.rejected += 1
            speed = min(1.0, self.capacity * unloaded_seconds / max(len(in_flight), 1))
            in_flight = [(at, work - tick * speed) for at, work in in_flight]
            recent += [(now, now - at) for at, work in in_flight if work <= 0]
            self.finished += sum(work <= 0 for _, work in in_flight)
            in_flight = [(at, work) for at, work in in_flight if work > 0]
            self.longest_seconds = max([self.longest_seconds, *(duration for _, duration in recent)])
            if now >= poll_at:
                poll_at = now + POLL_SECONDS
                recent = [(at, duration) for at, duration in recent if at > now - RATE_WINDOW_SECONDS]
                waits = sorted(duration - unloaded_seconds for _, duration in recent)
                waiting_ms = round(waits[len(waits) // 2] * 1000) if waits else None
                unqueued = started if 0.15 / speed <= PICKUP_SECONDS else 0
                self.limiter.observe(now, len(waits) / RATE_WINDOW_SECONDS, waiting_ms, unqueued)
                started = 0


@pytest.mark.parametrize("capacity", [9.0, 15.0, 30.0])
def test_at_twice_the_capacity_admitted_orders_keep_the_limit(capacity: float) -> None:
    system = SimulatedSystem(capacity)
    system.run(rate=2 * capacity, seconds=120)
    # The simulation has no slow single orders: the rest of the limit is for these.
    assert system.longest_seconds < 0.65 * LIMIT_SECONDS
    assert system.finished > 0.9 * capacity * 120, "the throughput stays near the capacity"
    assert system.rejected > 0


@pytest.mark.parametrize("rate", [5.0, 14.0, 16.0])
def test_below_the_capacity_no_order_is_rejected(rate: float) -> None:
    system = SimulatedSystem(capacity=17.0)
    system.run(rate, seconds=120)
    assert system.rejected == 0


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
