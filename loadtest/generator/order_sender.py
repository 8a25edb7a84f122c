"""Sends the orders of one generator process, local or worker."""

import resource
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import gevent
import gevent.event
from gevent.pool import Group, Pool

from loadtest.generator.api_client import MAX_CONNECTIONS, ApiClient
from loadtest.generator.arrivals import OpenLoop, worker_schedule
from loadtest.generator.order_journey import OrderJourney
from loadtest.generator.recording import Ending, Recorder, Report
from loadtest.options import Arrivals, RunOptions

if TYPE_CHECKING:
    from locust.env import Environment

REPORT_SECONDS = 0.5
OVERDUE_SECONDS = 0.1
SPARE_FILES = 200
"""File descriptors reserved for everything that is not the connection of an order."""

FINAL_CHECKS = 50
"""Concurrent final status requests after the drain."""

FINAL_CHECK_SECONDS = 20.0
"""Time for all final status requests. An order without a response is unknown."""

RunOrder = Callable[[OrderJourney], None]


class OrderSender:
    """Sends the orders of one process, then drains: `run` returns when each order has a final record.

    Calls `report` every half second, and a last time with a report that is `drained`.
    """

    def __init__(
        self,
        environment: "Environment",
        api_url: str,
        options: RunOptions,
        run_order: RunOrder,
        report: Callable[[Report], None],
        *,
        api_key: str | None = None,
        worker_index: int = 0,
        worker_count: int = 1,
    ) -> None:
        self.options = options
        self._run_order = run_order
        self._report = report
        self._worker_index = worker_index
        self._worker_count = worker_count
        self._began = time.perf_counter()
        self._max_open = max_open()
        self._api = ApiClient(api_url, environment.stats, api_key=api_key)
        self._recorder = Recorder(
            environment.events, options.slo_seconds, self._began, exclude_rejected=options.exclude_rejected
        )
        self._loop = OpenLoop(worker_schedule(options, worker_index, worker_count), self._spawn)
        self._greenlets: Group = Group()
        self._orders: dict[int, OrderJourney] = {}
        self._exhausted = False
        self._stopping = gevent.event.Event()
        self._drained = gevent.event.Event()
        self._next_closed = worker_index

    def run(self) -> None:
        """Send all orders, drain, and send the last report. Blocks."""
        reporting = gevent.spawn(self._report_periodically)
        try:
            if self.options.arrivals is Arrivals.CLOSED:
                self._stopping.wait(self.options.seconds)
            else:
                self._loop.run(self._began)
            self._exhausted = True
            self._drain()
        finally:
            reporting.kill()
            self._api.close()
            self._report(self._recorder.report(self._worker_index, exhausted=True, drained=True))
            self._drained.set()

    def stop(self) -> None:
        """Stop sending; orders in flight are drained."""
        self._loop.stop()
        self._stopping.set()

    def wait_until_drained(self, seconds: float) -> bool:
        """Return whether the process has drained within `seconds`."""
        return bool(self._drained.wait(seconds))

    def run_closed_order(self) -> None:
        """Run one order of a closed loop until its outcome; does nothing after the end of the run."""
        if self._exhausted or self._stopping.is_set():
            return
        number, self._next_closed = self._next_closed, self._next_closed + self._worker_count
        greenlet = self._spawn(number, time.perf_counter())
        if greenlet is not None:
            greenlet.join()

    def closed_interval_seconds(self) -> float:
        """Return the time between the orders of one closed-loop user, at the rate of this moment."""
        elapsed = time.perf_counter() - self._began
        for stage in self.options.stages:
            if elapsed <= stage.seconds:
                rate = stage.rate + (stage.end_rate - stage.rate) * elapsed / stage.seconds
                return self.options.users / max(rate, 1e-3)
            elapsed -= stage.seconds
        return self.options.seconds

    def _spawn(self, number: int, due: float) -> "gevent.Greenlet[..., None] | None":
        if len(self._recorder.open) >= self._max_open:
            self._recorder.skip()
            return None
        return self._greenlets.spawn(self._run_journey, number, due)

    def _run_journey(self, number: int, due: float) -> None:
        record = self._recorder.sent(number, due)
        options = self.options
        order = OrderJourney(
            self._api,
            self._recorder,
            options.run_id,
            record,
            options.seed,
            options.slo_seconds,
            options.execution,
        )
        self._orders[number] = order
        self._run_order(order)
        if not order.is_over:
            order.wait_for_outcome()
        del self._orders[number]

    def _drain(self) -> None:
        self._greenlets.join(timeout=self.options.drain_timeout_seconds)
        # Requests about orders that have ended may still be running.
        self._greenlets.kill(timeout=1.0)
        checks = Pool(FINAL_CHECKS)
        open_orders = [order for order in self._orders.values() if not order.is_over]

        def check() -> None:
            for order in open_orders:
                checks.spawn(order.record_final_state)
            checks.join()

        gevent.with_timeout(FINAL_CHECK_SECONDS, check, timeout_value=None)
        checks.kill()
        for order in open_orders:
            if not order.is_over:
                self._recorder.ended_without_outcome(order.record, Ending.UNKNOWN)

    def _report_periodically(self) -> None:
        reported_at = 0.0
        while True:
            self._recorder.count_overdue()
            now = time.perf_counter()
            if now - reported_at >= REPORT_SECONDS:
                self._report(
                    self._recorder.report(self._worker_index, exhausted=self._exhausted, drained=False)
                )
                reported_at = now
            gevent.sleep(OVERDUE_SECONDS)


def max_open() -> int:
    """Return the maximum number of open orders. Each uses one connection, which is an open file."""
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return MAX_CONNECTIONS if files == resource.RLIM_INFINITY else files - SPARE_FILES
