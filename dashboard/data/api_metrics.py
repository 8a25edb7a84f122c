"""The API's Prometheus metrics: how fast it responds, and which task queues have active workers."""

import math
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic

from prometheus_client.parser import text_string_to_metric_families

WINDOW_SECONDS = 60.0
SAMPLE_SECONDS = 5.0

_HISTOGRAM = "http_request_duration_seconds"
_QUEUES = "task_queue_served"
_EXCLUDED_ROUTES = ("/audit", "/latency", "/latency.csv", "/metrics", "unknown")
"""Reports over many orders. Long polls are excluded too: their route label ends in `?wait`."""

CumulativeBuckets = dict[float, float]
"""Upper bound in seconds to the number of requests that took at most that, over all routes."""


@dataclass(frozen=True)
class ApiSpeed:
    """Requests in the window, how many took over 1 s, and an upper bound of their p99 (a bucket's edge)."""

    requests: int
    slow: int
    p99_below_ms: float | None


class ApiMeter:
    """Keeps earlier readings of the histogram, which counts from the API's start, to measure a window."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, CumulativeBuckets]] = deque()
        self._lock = threading.Lock()

    def read(self, read_metrics: Callable[[], str]) -> tuple[ApiSpeed, dict[str, bool]]:
        """Return the speed over the last WINDOW_SECONDS and whether each task queue has an active worker.

        Raises ServiceUnavailable.
        """
        text = read_metrics()
        return self._speed(cumulative_buckets(text)), queues_served(text)

    def _speed(self, current: CumulativeBuckets) -> ApiSpeed:
        with self._lock:
            now = monotonic()
            if self._samples and current.get(math.inf, 0) < self._samples[-1][1].get(math.inf, 0):
                # The API restarted and counts from zero.
                self._samples.clear()
            while len(self._samples) > 1 and self._samples[1][0] <= now - WINDOW_SECONDS:
                self._samples.popleft()
            before = self._samples[0][1] if self._samples else {}
            if not self._samples or now - self._samples[-1][0] >= SAMPLE_SECONDS:
                self._samples.append((now, current))
        return speed_between(before, current)


def cumulative_buckets(metrics_text: str) -> CumulativeBuckets:
    """Sum the histogram's buckets over methods, statuses and the routes that respond at once."""
    total: CumulativeBuckets = {}
    for family in text_string_to_metric_families(metrics_text):
        if family.name != _HISTOGRAM:
            continue
        for sample in family.samples:
            route = sample.labels.get("route", "")
            if sample.name.endswith("_bucket") and route not in _EXCLUDED_ROUTES and "?" not in route:
                edge = float(sample.labels["le"])
                total[edge] = total.get(edge, 0.0) + sample.value
    return total


def queues_served(metrics_text: str) -> dict[str, bool]:
    """Return whether each task queue has an active worker."""
    return {
        sample.labels["task_queue"]: sample.value == 1
        for family in text_string_to_metric_families(metrics_text)
        if family.name == _QUEUES
        for sample in family.samples
    }


def speed_between(before: CumulativeBuckets, after: CumulativeBuckets) -> ApiSpeed:
    """Return the speed of the requests between two readings of the same histogram."""
    added = {edge: after[edge] - before.get(edge, 0.0) for edge in sorted(after)}
    requests = added.get(math.inf, 0.0)
    if requests <= 0:
        return ApiSpeed(0, 0, None)
    p99 = next(edge for edge, count in added.items() if count >= 0.99 * requests)
    return ApiSpeed(int(requests), int(requests - added.get(1.0, requests)), p99 * 1000)
