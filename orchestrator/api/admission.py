"""Whether one more order can be carried to its outcome within the limit.

An order that is accepted keeps its limit; so what would not fit is turned away at the door, with the time
after which to try again. By Little's law the orders in flight, divided by the rate at which orders finish,
is how long an order takes: as many are let in as finish in a share of the limit, at the best rate seen
lately. Whether the system falls behind at all is told by the time that finished orders spent in nobody's
hands, which an outside world that is slow, or a person who reviews, does not lengthen.
"""

import asyncio
import math
from collections import deque
from dataclasses import dataclass
from time import monotonic

import structlog

from db.database import Database
from db.read_models import order_details
from orchestrator.api.timeouts import within
from orchestrator.errors import DatabaseError, Overloaded
from orchestrator.settings import Settings

LOOK_SECONDS = 0.25
RATE_WINDOW_SECONDS = 5.0
RATE_MEMORY_SECONDS = 15.0

TARGET_SHARE = 0.37
"""How much of the limit an order may be expected to take: a mean that leaves the slowest their time."""

AT_FIRST = 56
"""Orders that are let in before anything is known: what 14 a second need under the `assignment` faults."""

UNTROUBLED = 90
"""Orders that are let in whatever the rate, once so many were taken up at once and none has to wait: room
for those that pile up while killed workers are replaced."""

QUICK_SECONDS = 0.4
"""An order that the workers took into the books within this time was taken up at once."""

LEAST = 16
"""Orders that are let in however slow everything is: with none there would be nothing to learn from."""

WAITING_SHARE = 0.1
"""The system falls behind when the middle one of the finished orders has spent more of the limit than this
in nobody's hands."""

STEP = 0.02
"""The share by which the room shrinks at each look then: slowly, so that a killed worker, whose orders wait
for some seconds, is not taken for too much work."""

RETRY_AFTER_SECONDS = 2
FORGET_SECONDS = 30.0
"""After which an order that was asked for and never came into the books is no longer counted."""

log = structlog.get_logger()


class TokenBucket:
    """Lets `rate` starts a second through, and `burst` at once."""

    def __init__(self, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst = burst
        self._tokens = burst
        self._at = -math.inf

    def take(self, now: float) -> float:
        """Takes a token; returns 0, or the seconds until there is one."""
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate)
        self._at = now
        if self._tokens >= 1:
            self._tokens -= 1
            return 0.0
        return (1 - self._tokens) / self._rate


class Pace:
    """How many orders may be in flight, from what is seen of those that finish and those that begin."""

    def __init__(self, limit_seconds: float, most: int) -> None:
        self._target_seconds = limit_seconds * TARGET_SHARE
        self._waiting_ms = limit_seconds * WAITING_SHARE * 1000
        self._most = most
        self._rates: deque[tuple[float, float]] = deque()
        self._room = float(AT_FIRST)
        self._sustainable = 0.0

    @property
    def allowed(self) -> int:
        return min(max(int(max(self._room, self._sustainable)), LEAST), self._most)

    def see(self, now: float, finished_rate: float, waiting_ms: int | None, taken_up_at_once: int) -> None:
        """Takes in a look at the books: orders that finish a second, the time that the middle one of them
        waited (None without any), and how many orders the workers have taken up at once since the last."""
        self._rates.append((now, finished_rate))
        while self._rates[0][0] < now - RATE_MEMORY_SECONDS:
            self._rates.popleft()
        self._sustainable = max(rate for _, rate in self._rates) * self._target_seconds
        if waiting_ms is None or waiting_ms <= self._waiting_ms:
            self._room = min(self._room + taken_up_at_once, max(self._room, UNTROUBLED))
        elif self._room > self._sustainable:
            self._room *= 1 - STEP


@dataclass(frozen=True)
class OrderSnapshot:
    """What the door goes by: orders in flight, as many as may be, and how many were turned away so far."""

    in_flight: int
    allowed: int
    shed: int


class Admission:
    """Counts the orders in flight, of all APIs over the same books, and lets in no more than may be.

    The books are looked at in the background: a start costs no statement for it. In between, the orders that
    this process has let in and the books do not have yet are counted here.
    """

    def __init__(self, settings: Settings, database: Database) -> None:
        self._database = database
        self._bucket = TokenBucket(settings.start_rate, settings.start_burst)
        self._pace = Pace(settings.order_deadline_seconds, settings.max_in_flight)
        self._stored = 0
        self._asked: dict[str, float] = {}
        """Orders let in that the books do not have yet, and since when."""

        self._unsure: dict[str, float] = {}
        self._shed = 0
        self._someone_starts = asyncio.Event()

    @property
    def standing(self) -> OrderSnapshot:
        return OrderSnapshot(self._stored + len(self._asked), self._pace.allowed, self._shed)

    def admit(self, order_id: str) -> None:
        """Lets an order in that the books do not know. Raises Overloaded when it must come again later.

        An order that was let in before is let in again: it may have been accepted.
        """
        now = monotonic()
        self._someone_starts.set()
        if order_id in self._asked:
            return
        if self._stored + len(self._asked) >= self._pace.allowed:
            self._shed += 1
            raise Overloaded("too many orders are under way; try again shortly", RETRY_AFTER_SECONDS)
        if wait_seconds := self._bucket.take(now):
            self._shed += 1
            raise Overloaded("too many starts at once; try again shortly", math.ceil(wait_seconds))
        self._asked[order_id] = now

    def failed(self, order_id: str) -> None:
        """Temporal did not answer the start of an order that was let in: it may have it, or not."""
        if (at := self._asked.pop(order_id, None)) is not None:
            self._unsure[order_id] = at

    def may_have_started(self, order_id: str) -> bool:
        """Whether the start of this order failed in a way that leaves open whether Temporal has it."""
        return order_id in self._unsure

    async def run(self) -> None:
        """Looks at the books, forever, while there are orders."""
        while True:
            if not self._asked and not self._stored:
                self._someone_starts.clear()
                await self._someone_starts.wait()
            try:
                await self._look()
            except DatabaseError:
                # Starts are answered 503 then; what was known stays the best guess.
                log.warning("orders in flight are not known just now")
            except Exception:
                # Without further looks the door would fill up, and stay shut.
                log.exception("orders in flight could not be counted")
            await asyncio.sleep(LOOK_SECONDS)

    async def _look(self) -> None:
        asked = list(self._asked)
        pressure = await within(order_details.pressure(self._database, asked, RATE_WINDOW_SECONDS))
        now = monotonic()
        self._stored = pressure.in_flight
        quick = 0
        for order_id in asked:
            seconds = now - self._asked.get(order_id, now)
            if order_id in pressure.taken:
                quick += seconds <= QUICK_SECONDS
                self._asked.pop(order_id, None)
            elif seconds > FORGET_SECONDS:
                self._asked.pop(order_id, None)
        for order_id, at in list(self._unsure.items()):
            if now - at > FORGET_SECONDS:
                del self._unsure[order_id]
        self._pace.see(now, pressure.finished / RATE_WINDOW_SECONDS, pressure.waiting_ms, quick)
