"""Prometheus metrics: requests and admission of this process, and order counts from the order database."""

import asyncio
from collections.abc import Iterable, Mapping
from time import monotonic

from prometheus_client import CollectorRegistry, Histogram, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from db.database import Database
from db.domain import TERMINAL_STATES
from db.read_models import order_metrics
from orchestrator.api.admission import Admission
from orchestrator.api.timeouts import while_available
from orchestrator.errors import DatabaseError

CACHE_SECONDS = 5.0
"""Maximum age of the order counts."""

MEDIA_TYPE = CONTENT_TYPE_LATEST

_COMPLETION_EDGES_MS = (
    938, 1_875, 2_652, 3_750, 4_460, 5_303, 6_307, 7_500, 8_919, 10_607, 11_567, 12_613, 13_755, 14_364,
    15_000, 17_838, 21_213, 30_000, 60_000,
)  # fmt: skip
"""A subset of the bucket edges of the latency rollup, so that each count is exact."""

_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0)


class Metrics(Collector):
    """Collects all metrics. `requests` is filled by the middleware."""

    def __init__(self, database: Database, admission: Admission) -> None:
        self._database = database
        self._admission = admission
        self._reading = asyncio.Lock()
        self._counts: tuple[order_metrics.Counters, order_metrics.OpenOrders] | None = None
        self._read_at = float("-inf")
        self._queues_served: Mapping[str, bool] = {}
        self._failed_tasks = 0
        self._registry = CollectorRegistry()
        self._registry.register(self)
        # Memory, CPU and open files of this process.
        ProcessCollector(registry=self._registry)
        self.requests = Histogram(
            "http_request_duration_seconds",
            "Request duration by route; long polls (?wait=) are routes of their own.",
            ["method", "route", "status"],
            buckets=_BUCKETS,
            registry=self._registry,
        )

    def background_task_failed(self) -> None:
        self._failed_tasks += 1

    async def text(self, queues_served: Mapping[str, bool]) -> bytes:
        """Return the metrics in the text format. Without the database, the order counts are missing."""
        self._queues_served = queues_served
        # Concurrent scrapes share one query.
        async with self._reading:
            if monotonic() - self._read_at > CACHE_SECONDS:
                try:
                    self._counts = await while_available(self._count_orders(), self._database)
                    self._read_at = monotonic()
                except DatabaseError:
                    self._counts = None
        return generate_latest(self._registry)

    async def _count_orders(self) -> tuple[order_metrics.Counters, order_metrics.OpenOrders]:
        return await order_metrics.counters(self._database), await order_metrics.open_orders(self._database)

    def collect(self) -> Iterable[Metric]:
        yield GaugeMetricFamily(
            "orders_admissible",
            "Orders that may be active before starts are rejected.",
            self._admission.limit,
        )
        yield CounterMetricFamily("orders_rejected", "Starts rejected with 429.", self._admission.rejected)
        yield CounterMetricFamily(
            "background_task_failures",
            "Unexpected errors of background tasks, which then start again.",
            self._failed_tasks,
        )
        served = GaugeMetricFamily(
            "task_queue_served", "Whether an active worker polls the task queue.", labels=["task_queue"]
        )
        for queue, is_served in self._queues_served.items():
            served.add_metric([queue], is_served)
        yield served
        yield GaugeMetricFamily(
            "database_connected", "Whether the order database responds.", self._counts is not None
        )
        if self._counts is not None:
            counters, open_orders = self._counts
            yield from _in_flight(open_orders)
            yield from _totals(counters)


def _in_flight(orders: order_metrics.OpenOrders) -> Iterable[Metric]:
    yield GaugeMetricFamily("orders_in_flight", "Orders without an outcome.", orders.orders)
    yield GaugeMetricFamily(
        "orders_active", "Orders in flight, without reviews and delayed compensations.", orders.active
    )
    yield GaugeMetricFamily("orders_overdue", "Orders in flight past their limit.", orders.overdue)
    yield GaugeMetricFamily(
        "orders_compensating", "Aborted orders whose compensation is not complete.", orders.compensating
    )
    yield GaugeMetricFamily(
        "orders_compensating_overdue", "Compensating orders past their deadline.",
        orders.compensating_overdue,
    )  # fmt: skip
    yield GaugeMetricFamily(
        "orders_compensation_delayed",
        "Compensating orders whose refund or recall has failed often and is retried with long delays.",
        orders.compensation_delayed,
    )
    # None without an order in flight: the metric has no sample then.
    yield GaugeMetricFamily(
        "orders_least_budget_left_seconds",
        "Time until the earliest deadline of an order in flight; negative when overdue.",
        orders.least_seconds_left,
    )
    yield GaugeMetricFamily(
        "reconciler_stopped",
        "1 while the reconciler is stopped because it found too many orphaned orders.",
        orders.is_reconciler_stopped,
    )


def _totals(counters: order_metrics.Counters) -> Iterable[Metric]:
    finished = CounterMetricFamily("orders_finished", "Orders by outcome.", labels=["outcome"])
    for outcome in TERMINAL_STATES:
        finished.add_metric([outcome.value], counters.finished.get(outcome, 0))
    yield finished
    yield CounterMetricFamily("orders_late", "Orders with an outcome after their deadline.", counters.late)
    attempts = CounterMetricFamily(
        "order_attempts", "Gateway calls of finished orders; error is every failure except a timeout.",
        labels=["outcome"],
    )  # fmt: skip
    for kind in ("ok", "error", "timeout"):
        attempts.add_metric([kind], counters.attempts.get(kind, 0))
    yield attempts
    yield HistogramMetricFamily(
        "order_completion_seconds", "Time from acceptance to outcome.",
        buckets=_completion_buckets(counters.finished_upto), sum_value=counters.completion_ms / 1000,
    )  # fmt: skip


def _completion_buckets(finished_upto: Mapping[int, int]) -> list[tuple[str, float]]:
    """Return the cumulative count of orders for each edge in seconds."""
    buckets: list[tuple[str, float]] = [
        (str(edge / 1000), sum(orders for upto, orders in finished_upto.items() if upto <= edge))
        for edge in _COMPLETION_EDGES_MS
    ]
    return [*buckets, ("+Inf", sum(finished_upto.values()))]
