"""What the API publishes for Prometheus: how quickly it has answered, and which task queues are served."""

import math
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic

from prometheus_client.parser import text_string_to_metric_families

WINDOW_SECONDS = 60.0
KEEP_EVERY_SECONDS = 5.0

_HISTOGRAM = "http_request_duration_seconds"
_QUEUES = "task_queue_served"
_LONG_BY_NATURE = ("/audit", "/latency", "/latency.csv", "/metrics", "unknown")
"""Reports, which read many orders; and answers held by ?wait are left out by their ending."""

Buckets = dict[float, float]
"""Requests that took at most so many seconds, all routes together."""


@dataclass(frozen=True)
class ApiSpeed:
    """Of the requests in the window: how many, how many over 1 s, and below what 99 % were (ms, a bucket's
    edge; infinite when beyond the last)."""

    requests: int
    slow: int
    p99_below_ms: float | None


class ApiMeter:
    """Keeps what the histogram said before, because it counts since the API started."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, Buckets]] = deque()
        self._lock = threading.Lock()

    def look(self, read_metrics: Callable[[], str]) -> tuple[ApiSpeed, dict[str, bool]]:
        """The speed over the last minute, or since the API or this dashboard started; and whether each task
        queue has a live worker. Raises ServiceUnavailable."""
        text = read_metrics()
        return self._speed(cumulated(text)), queues_served(text)

    def _speed(self, current: Buckets) -> ApiSpeed:
        with self._lock:
            now = monotonic()
            if self._seen and current.get(math.inf, 0) < self._seen[-1][1].get(math.inf, 0):
                # The API was started again and counts from zero.
                self._seen.clear()
            while len(self._seen) > 1 and self._seen[1][0] <= now - WINDOW_SECONDS:
                self._seen.popleft()
            before = self._seen[0][1] if self._seen else {}
            if not self._seen or now - self._seen[-1][0] >= KEEP_EVERY_SECONDS:
                self._seen.append((now, current))
        return speed_between(before, current)


def cumulated(metrics_text: str) -> Buckets:
    """The histogram's buckets summed over methods, statuses and the routes that answer at once."""
    total: Buckets = {}
    for family in text_string_to_metric_families(metrics_text):
        if family.name != _HISTOGRAM:
            continue
        for sample in family.samples:
            route = sample.labels.get("route", "")
            if sample.name.endswith("_bucket") and route not in _LONG_BY_NATURE and "?" not in route:
                edge = float(sample.labels["le"])
                total[edge] = total.get(edge, 0.0) + sample.value
    return total


def queues_served(metrics_text: str) -> dict[str, bool]:
    """By task queue, whether a live worker polls it."""
    return {
        sample.labels["task_queue"]: sample.value == 1
        for family in text_string_to_metric_families(metrics_text)
        if family.name == _QUEUES
        for sample in family.samples
    }


def speed_between(before: Buckets, after: Buckets) -> ApiSpeed:
    """What was added between two readings of the same histogram."""
    added = {edge: after[edge] - before.get(edge, 0.0) for edge in sorted(after)}
    requests = added.get(math.inf, 0.0)
    if requests <= 0:
        return ApiSpeed(0, 0, None)
    p99 = next(edge for edge, count in added.items() if count >= 0.99 * requests)
    return ApiSpeed(int(requests), int(requests - added.get(1.0, requests)), p99 * 1000)
