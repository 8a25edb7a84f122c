"""Arrival schedules: when each order is due, and the open loop that sends orders at these times.

The schedule follows from the options alone, so every process of a distributed run computes all of it and
sends each n-th order. It is never re-based: a delayed order is sent as soon as possible and keeps its due
time, so a stall of the system or of the generator shows in the times of the orders behind it.
"""

import math
import time
from collections.abc import Callable, Iterator
from random import Random

import gevent
import gevent.event

from loadtest.options import Arrivals, RunOptions, Stage

Send = Callable[[int, float], object]
"""Sends order `number`, due at a time of `time.perf_counter()`. Must not block."""


def due_times(options: RunOptions) -> Iterator[float]:
    """Yield the due times of all orders of the run, in seconds after its start.

    With constant arrivals order k is due when the integral of the rate reaches k. Poisson arrivals replace
    the steps of 1 by exponential steps with mean 1 (time rescaling of an inhomogeneous Poisson process).
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
    """Return the number of orders in the schedule; None for a closed loop, which has no schedule."""
    if options.arrivals is Arrivals.CLOSED:
        return None
    if options.arrivals is Arrivals.POISSON:
        return sum(1 for _ in due_times(options))
    return options.orders_at_rate


def _offset(stage: Stage, orders: float) -> float:
    """Return when `orders` are due, in seconds into the stage: the root of rate·t + slope·t²/2 = orders."""
    slope = (stage.end_rate - stage.rate) / stage.seconds
    if abs(slope) < 1e-12:
        return orders / stage.rate
    # This form of the root has no cancellation when the slope is small.
    return 2 * orders / (stage.rate + math.sqrt(max(stage.rate**2 + 2 * slope * orders, 0.0)))


def worker_schedule(options: RunOptions, worker_index: int, worker_count: int) -> Iterator[tuple[int, float]]:
    """Yield number and due time of the orders that one of `worker_count` processes sends."""
    for number, due in enumerate(due_times(options)):
        if number % worker_count == worker_index:
            yield number, due


class OpenLoop:
    """Sends the orders of one process on schedule, however slowly the system responds."""

    def __init__(self, schedule: Iterator[tuple[int, float]], send: Send) -> None:
        self._schedule = schedule
        self._send = send
        self._stopping = gevent.event.Event()

    def run(self, began: float) -> None:
        """Send until the schedule ends or `stop` is called. `began` is the start of the run, a time of
        `time.perf_counter()`."""
        for number, due_seconds in self._schedule:
            due = began + due_seconds
            # Wait even for 0 s: the greenlets of the orders must run.
            if self._stopping.wait(max(due - time.perf_counter(), 0.0)):
                return
            self._send(number, due)

    def stop(self) -> None:
        """Stop sending, also while `run` waits minutes for the next order."""
        self._stopping.set()
