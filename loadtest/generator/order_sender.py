"""The part of a run that sends orders: one in each generating process, local or worker."""

import resource
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import gevent
import gevent.event
from gevent.pool import Group, Pool

from loadtest.generator.api_client import MAX_CONNECTIONS, ApiClient
from loadtest.generator.arrivals import OpenLoop, share_of
from loadtest.generator.order_journey import OrderJourney
from loadtest.generator.recording import Recorder, Report
from loadtest.options import Arrivals, RunOptions

if TYPE_CHECKING:
    from locust.env import Environment

REPORT_SECONDS = 0.5
OVERDUE_SECONDS = 0.1
SPARE_FILES = 200
"""File descriptors kept for everything that is not a connection of an order."""

LAST_LOOKS = 50

Live = Callable[[OrderJourney], None]


class Generator:
    """Sends one process's share of a run, then drains: returns only when each of its orders is accounted for.

    `tell` is given a report every half second, and a last one with `drained` set.
    """

    def __init__(
        self,
        environment: "Environment",
        api_url: str,
        options: RunOptions,
        live: Live,
        tell: Callable[[Report], None],
        *,
        api_key: str | None = None,
        share: int = 0,
        shares: int = 1,
    ) -> None:
        self.options = options
        self._live = live
        self._tell = tell
        self._share = share
        self._shares = shares
        self._began = time.perf_counter()
        self._max_open = max_open()
        self._api = ApiClient(api_url, environment.events, api_key=api_key)
        self._recorder = Recorder(
            environment.events, options.slo_seconds, self._began, exclude_rejected=options.exclude_rejected
        )
        self._loop = OpenLoop(share_of(options, share, shares), self._send)
        self._lives: Group = Group()
        self._orders: dict[int, OrderJourney] = {}
        self._exhausted = False
        self._stopping = gevent.event.Event()
        self._drained = gevent.event.Event()
        self._next_closed = share

    def run(self) -> None:
        """From the first order to the last report. Blocks."""
        watch = gevent.spawn(self._watch)
        try:
            if self.options.arrivals is Arrivals.CLOSED:
                self._stopping.wait(self.options.seconds)
            else:
                self._loop.run(self._began)
            self._exhausted = True
            self._drain()
        finally:
            watch.kill()
            self._api.close()
            self._tell(self._recorder.report(self._share, exhausted=True, drained=True))
            self._drained.set()

    def stop(self) -> None:
        """No further order leaves; those under way are drained."""
        self._loop.stop()
        self._stopping.set()

    def wait_until_drained(self, seconds: float) -> bool:
        """Returns whether it has drained within so long."""
        return bool(self._drained.wait(seconds))

    def live_one(self) -> None:
        """One order of a closed loop, due now. Blocks until its outcome; returns at once after the end."""
        if self._exhausted or self._stopping.is_set():
            return
        number, self._next_closed = self._next_closed, self._next_closed + self._shares
        greenlet = self._spawn(number, time.perf_counter())
        if greenlet is not None:
            greenlet.join()

    def closed_pace_seconds(self) -> float:
        """How far apart the orders of one closed-loop user shall be, at the rate of this moment."""
        reached = time.perf_counter() - self._began
        for stage in self.options.stages:
            if reached <= stage.seconds:
                rate = stage.rate + (stage.end_rate - stage.rate) * reached / stage.seconds
                return self.options.users / max(rate, 1e-3)
            reached -= stage.seconds
        return self.options.seconds

    def _send(self, number: int, due: float) -> None:
        self._spawn(number, due)

    def _spawn(self, number: int, due: float) -> "gevent.Greenlet[..., None] | None":
        if len(self._recorder.open) >= self._max_open:
            self._recorder.skip()
            return None
        return self._lives.spawn(self._live_order, number, due)

    def _live_order(self, number: int, due: float) -> None:
        record = self._recorder.sent(number, due)
        options = self.options
        order = OrderJourney(
            self._api, self._recorder, options.run_id, record, options.seed, options.slo_seconds
        )
        self._orders[number] = order
        self._live(order)
        if not order.is_over:
            order.wait_for_outcome()
        del self._orders[number]

    def _drain(self) -> None:
        self._lives.join(timeout=self.options.drain_timeout_seconds)
        if not self._recorder.open:
            # Requests about orders that are already over may still be under way.
            self._lives.kill(timeout=1.0)
            return
        self._lives.kill(timeout=1.0)
        looks = Pool(LAST_LOOKS)
        for order in list(self._orders.values()):
            if not order.is_over:
                looks.spawn(order.look_for_the_last_time)
        looks.join()

    def _watch(self) -> None:
        told_at = 0.0
        while True:
            self._recorder.note_overdue()
            now = time.perf_counter()
            if now - told_at >= REPORT_SECONDS:
                self._tell(self._recorder.report(self._share, exhausted=self._exhausted, drained=False))
                told_at = now
            gevent.sleep(OVERDUE_SECONDS)


def max_open() -> int:
    """How many orders may be open at once: each waits on a connection of its own, which is an open file."""
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return MAX_CONNECTIONS if files == resource.RLIM_INFINITY else files - SPARE_FILES
