"""How many orders are let in: against a made-up order system of known capacity, without a clock."""

from dataclasses import dataclass, field

import pytest

from db.database import Database
from orchestrator.api.admission import (
    AT_FIRST,
    LEAST,
    LOOK_SECONDS,
    QUICK_SECONDS,
    RATE_WINDOW_SECONDS,
    UNTROUBLED,
    Admission,
    Pace,
    TokenBucket,
)
from orchestrator.errors import Overloaded
from orchestrator.settings import Settings

LIMIT_SECONDS = 15.0
NO_FILE = {"_env_file": None}


def admission(**settings: float) -> Admission:
    return Admission(Settings(**NO_FILE, **settings), Database("postgresql://nobody@/nothing"))  # type: ignore[arg-type]


def pace(most: int = 1_000) -> Pace:
    return Pace(LIMIT_SECONDS, most)


# --- The bucket -------------------------------------------------------------------------------------


def test_a_bucket_lets_a_burst_through_and_then_its_rate() -> None:
    bucket = TokenBucket(rate=10, burst=3)
    assert [bucket.take(100.0) for _ in range(3)] == [0, 0, 0]
    assert bucket.take(100.0) == pytest.approx(0.1)
    assert bucket.take(100.05) == pytest.approx(0.05)
    assert bucket.take(100.11) == 0
    assert bucket.take(100.11) > 0
    assert [bucket.take(200.0) for _ in range(3)] == [0, 0, 0]
    assert bucket.take(200.0) > 0, "what was not used for long is not saved up beyond the burst"


# --- The pace ---------------------------------------------------------------------------------------


def test_room_grows_with_orders_that_are_taken_up_at_once() -> None:
    found = pace()
    assert found.allowed == AT_FIRST
    found.see(0.0, finished_rate=0, waiting_ms=None, taken_up_at_once=10)
    assert found.allowed == AT_FIRST + 10
    found.see(0.25, finished_rate=0, waiting_ms=None, taken_up_at_once=1_000)
    assert found.allowed == UNTROUBLED


def test_room_follows_the_rate_of_a_larger_system() -> None:
    found = pace()
    found.see(0.0, finished_rate=100, waiting_ms=50, taken_up_at_once=0)
    assert found.allowed == pytest.approx(100 * LIMIT_SECONDS * 0.37)
    assert pace(most=200).allowed <= 200


def test_room_shrinks_slowly_to_what_the_rate_sustains_while_orders_wait() -> None:
    found = pace()
    found.see(0.0, finished_rate=0, waiting_ms=None, taken_up_at_once=UNTROUBLED)
    sizes = []
    for look in range(400):
        found.see(look * LOOK_SECONDS, finished_rate=6, waiting_ms=4_000, taken_up_at_once=3)
        sizes.append(found.allowed)
    assert sizes[16] > UNTROUBLED * 0.7, "for 4 s, as after the death of a worker, by little"
    assert sizes[-1] == int(6 * LIMIT_SECONDS * 0.37)


def test_somebody_is_always_let_in() -> None:
    found = pace()
    for look in range(1_000):
        found.see(look * LOOK_SECONDS, finished_rate=0, waiting_ms=14_000, taken_up_at_once=0)
    assert found.allowed == LEAST


@dataclass
class Shop:
    """An order system that finishes at most `capacity` orders a second; alone, an order takes 3.6 s.

    Beyond that all orders slow down alike. Admission is by `pace`, as the API does it.
    """

    capacity: float
    pace: Pace = field(default_factory=pace)
    longest: float = 0.0
    done: int = 0
    shed: int = 0

    def run(self, rate: float, seconds: float) -> None:
        tick, alone = 0.05, 3.6
        left: list[tuple[float, float]] = []  # when it began, and what is still to do
        ended: list[tuple[float, float]] = []
        offered, began, look_at = 0.0, 0, 0.0
        for step in range(round(seconds / tick)):
            now = step * tick
            offered += rate * tick
            while offered >= 1:
                offered -= 1
                if len(left) < self.pace.allowed:
                    left.append((now, alone))
                    began += 1
                else:
                    self.shed += 1
            speed = min(1.0, self.capacity * alone / max(len(left), 1))
            left = [(at, todo - tick * speed) for at, todo in left]
            ended += [(now, now - at) for at, todo in left if todo <= 0]
            self.done += sum(todo <= 0 for _, todo in left)
            left = [(at, todo) for at, todo in left if todo > 0]
            self.longest = max([self.longest, *(took for _, took in ended)])
            if now >= look_at:
                look_at = now + LOOK_SECONDS
                lately = sorted(took - alone for at, took in ended if at > now - RATE_WINDOW_SECONDS)
                ended = [(at, took) for at, took in ended if at > now - RATE_WINDOW_SECONDS]
                waiting = round(lately[len(lately) // 2] * 1000) if lately else None
                quick = began if 0.15 / speed <= QUICK_SECONDS else 0
                self.pace.see(now, len(lately) / RATE_WINDOW_SECONDS, waiting, quick)
                began = 0


@pytest.mark.parametrize("capacity", [9.0, 15.0, 30.0])
def test_twice_what_can_be_carried_leaves_everyone_let_in_their_time(capacity: float) -> None:
    shop = Shop(capacity)
    shop.run(rate=2 * capacity, seconds=120)
    # A model without the bad luck of single orders, which the rest of the limit is for.
    assert shop.longest < 0.65 * LIMIT_SECONDS
    assert shop.done > 0.9 * capacity * 120, "what can be carried is carried"
    assert shop.shed > 0


@pytest.mark.parametrize("rate", [5.0, 14.0, 16.0])
def test_what_can_be_carried_is_never_turned_away(rate: float) -> None:
    shop = Shop(capacity=17.0)
    shop.run(rate, seconds=120)
    assert shop.shed == 0


# --- The door ---------------------------------------------------------------------------------------


def test_no_more_than_may_be_in_flight_are_let_in_and_a_repeat_always_is() -> None:
    door = admission(max_in_flight=2)
    door.admit("a")
    door.admit("b")
    with pytest.raises(Overloaded, match="under way") as refused:
        door.admit("c")
    assert refused.value.retry_after_seconds >= 1
    door.admit("a")
    assert (door.standing.in_flight, door.standing.allowed, door.standing.shed) == (2, 2, 1)


def test_bursts_are_cut_at_the_rate() -> None:
    door = admission(start_rate=1, start_burst=5)
    for number in range(5):
        door.admit(f"order-{number}")
    with pytest.raises(Overloaded, match="at once") as refused:
        door.admit("one-more")
    assert refused.value.retry_after_seconds == 1


def test_an_order_whose_start_failed_takes_no_room_and_is_remembered() -> None:
    door = admission(max_in_flight=1)
    door.admit("a")
    assert not door.may_have_started("a")
    door.failed("a")
    assert door.may_have_started("a")
    door.admit("b")
