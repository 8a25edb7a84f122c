"""When orders are due: absolute schedules, and the open loop that keeps to them.

A schedule is computed beforehand from the stages (and, for Poisson, the seed), so every process of a
distributed run knows the whole of it and takes each n-th order. It is never re-based: an order that could
not be sent in time is sent as soon as possible, with its due time unchanged, so a stall of the system or
of the generator shows in the times of the orders behind it.
"""

import math
import time
from collections.abc import Callable, Iterator
from random import Random

import gevent

from loadtest.options import Arrivals, RunOptions, Stage

Send = Callable[[int, float], None]
"""Begins the life of order number n, due at a time of `time.perf_counter()`. Must not block."""


def due_times(options: RunOptions) -> Iterator[float]:
    """Seconds after the start at which the orders of the whole run are due, in order.

    Constant: the k-th order is due when k orders' worth of rate have gone by. Poisson: the same with
    exponential steps of mean 1 (time rescaling of an inhomogeneous Poisson process), from the seed.
    """
    steps = Random(f"arrivals/{options.seed}") if options.arrivals is Arrivals.POISSON else None
    total = sum(stage.orders for stage in options.stages)
    reached = steps.expovariate(1.0) if steps else 0.0
    begins, before = 0.0, 0.0
    for stage in options.stages:
        while reached < before + stage.orders - 1e-9 and reached < total - 1e-9:
            yield begins + _offset(stage, reached - before)
            reached += steps.expovariate(1.0) if steps else 1.0
        begins += stage.seconds
        before += stage.orders


def planned_orders(options: RunOptions) -> int | None:
    """How many orders the schedule has; None for a closed loop, which has none."""
    if options.arrivals is Arrivals.CLOSED:
        return None
    if options.arrivals is Arrivals.POISSON:
        return sum(1 for _ in due_times(options))
    return options.orders_at_rate


def _offset(stage: Stage, orders: float) -> float:
    """Seconds into the stage until `orders` are due: the root of rate·t + slope·t²/2 = orders."""
    slope = (stage.end_rate - stage.rate) / stage.seconds
    if abs(slope) < 1e-12:
        return orders / stage.rate
    # The form that does not cancel when the slope is small.
    return 2 * orders / (stage.rate + math.sqrt(max(stage.rate**2 + 2 * slope * orders, 0.0)))


def share_of(options: RunOptions, share: int, shares: int) -> Iterator[tuple[int, float]]:
    """The orders that process `share` (0-based) of `shares` sends: number and due time in seconds."""
    for number, due in enumerate(due_times(options)):
        if number % shares == share:
            yield number, due


class OpenLoop:
    """Sends the orders of one process on time, whatever the system does."""

    def __init__(self, schedule: Iterator[tuple[int, float]], send: Send) -> None:
        self._schedule = schedule
        self._send = send
        self._stopped = False

    def run(self, began: float) -> None:
        """Returns when the schedule is exhausted or `stop` was called. `began` is the schedule's zero, a
        time of `time.perf_counter()`."""
        for number, due_seconds in self._schedule:
            due = began + due_seconds
            wait = due - time.perf_counter()
            # Also without a wait: the greenlets that live the orders must get their turn.
            gevent.sleep(max(wait, 0.0))
            if self._stopped:
                return
            self._send(number, due)

    def stop(self) -> None:
        self._stopped = True
