"""What Prometheus is told: the requests of this process, and the orders in the books."""

import asyncio
from collections.abc import Iterable, Mapping
from time import monotonic, perf_counter

from prometheus_client import CollectorRegistry, Histogram, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from db.database import Database
from db.domain import TERMINAL_STATES
from db.read_models import order_details
from orchestrator.api.admission import Admission
from orchestrator.api.timeouts import database_timeout, while_alive
from orchestrator.errors import DatabaseError

CACHE_SECONDS = 5.0
"""How old the order counts of a scrape may be."""

MEDIA_TYPE = CONTENT_TYPE_LATEST

_COMPLETION_EDGES_MS = (
    938, 1_875, 2_652, 3_750, 4_460, 5_303, 6_307, 7_500, 8_919, 10_607, 11_567, 12_613, 13_755, 14_364,
    15_000, 17_838, 21_213, 30_000, 60_000,
)  # fmt: skip
"""A choice of the edges by which the books count, so that each bucket is exact."""

_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0)


class Metrics:
    def __init__(self, database: Database, admission: Admission) -> None:
        self._database = database
        self._reading = asyncio.Lock()
        self._registry = CollectorRegistry()
        self._registry.register(_DoorCollector(admission))
        self._orders = _OrderCollector()
        self._queues = _QueueCollector()
        self._registry.register(self._orders)
        self._registry.register(self._queues)
        # Memory, CPU and open files of this process.
        ProcessCollector(registry=self._registry)
        self._read_at = float("-inf")
        self.requests = Histogram(
            "http_request_duration_seconds",
            "Time to answer, by route; answers held by ?wait= are counted as their own route.",
            ["method", "route", "status"],
            buckets=_BUCKETS,
            registry=self._registry,
        )

    async def text(self, queues_served: Mapping[str, bool]) -> bytes:
        """The exposition. While the books are away, it says so instead of counting orders."""
        self._queues.served = queues_served
        # However many ask, one connection reads.
        async with self._reading:
            if monotonic() - self._read_at > CACHE_SECONDS:
                try:
                    self._orders.known = await while_alive(self._counted(), database_timeout(self._database))
                    self._read_at = monotonic()
                except DatabaseError:
                    self._orders.known = None
        return generate_latest(self._registry)

    async def _counted(self) -> tuple[order_details.Counters, order_details.OpenOrders]:
        return await order_details.counters(self._database), await order_details.open_orders(self._database)


class _DoorCollector(Collector):
    def __init__(self, admission: Admission) -> None:
        self._admission = admission

    def collect(self) -> Iterable[Metric]:
        standing = self._admission.standing
        yield GaugeMetricFamily(
            "orders_admissible", "Orders that may be in flight before starts are shed.", standing.allowed
        )
        yield CounterMetricFamily("order_starts_shed", "Starts that were answered 429.", standing.shed)


class _QueueCollector(Collector):
    def __init__(self) -> None:
        self.served: Mapping[str, bool] = {}

    def collect(self) -> Iterable[Metric]:
        served = GaugeMetricFamily(
            "task_queue_served", "Whether a live worker polls the task queue.", labels=["task_queue"]
        )
        for queue, is_served in self.served.items():
            served.add_metric([queue], is_served)
        yield served


class _OrderCollector(Collector):
    def __init__(self) -> None:
        self.known: tuple[order_details.Counters, order_details.OpenOrders] | None = None

    def collect(self) -> Iterable[Metric]:
        yield GaugeMetricFamily(
            "database_connected", "Whether the order counts below are there.", self.known is not None
        )
        if self.known is not None:
            known, open_orders = self.known
            yield from _in_flight(open_orders)
            yield from _since_the_beginning(known)


def _in_flight(orders: order_details.OpenOrders) -> Iterable[Metric]:
    yield GaugeMetricFamily("orders_in_flight", "Orders without an outcome yet.", orders.orders)
    yield GaugeMetricFamily("orders_overdue", "Orders in flight past their deadline.", orders.overdue)
    yield GaugeMetricFamily(
        "orders_compensating", "Orders that are turned back and not wholly undone yet.", orders.compensating
    )
    yield GaugeMetricFamily(
        "orders_compensating_overdue", "Those of them that are past their deadline.",
        orders.compensating_overdue,
    )  # fmt: skip
    # Without an order there is no time: the family is empty then.
    yield GaugeMetricFamily(
        "orders_least_budget_left_seconds",
        "Time until the nearest deadline of an order in flight; below 0 when one is overdue.",
        orders.least_seconds_left,
    )


def _since_the_beginning(known: order_details.Counters) -> Iterable[Metric]:
    finished = CounterMetricFamily("orders_finished", "Orders by outcome.", labels=["outcome"])
    for outcome in TERMINAL_STATES:
        finished.add_metric([outcome.value], known.finished.get(outcome, 0))
    yield finished
    yield CounterMetricFamily("orders_late", "Orders whose outcome came after their deadline.", known.late)
    attempts = CounterMetricFamily(
        "order_attempts", "Gateways calls of finished orders; error is every failure but a timeout.",
        labels=["outcome"],
    )  # fmt: skip
    for kind in ("ok", "error", "timeout"):
        attempts.add_metric([kind], known.attempts.get(kind, 0))
    yield attempts
    yield HistogramMetricFamily(
        "order_completion_seconds", "Time from acceptance to outcome.",
        buckets=_completion_buckets(known.finished_upto), sum_value=known.completion_ms / 1000,
    )  # fmt: skip


def _completion_buckets(finished_upto: Mapping[int, int]) -> list[tuple[str, float]]:
    """Orders up to each edge, cumulated, with the edge in seconds."""
    buckets: list[tuple[str, float]] = [
        (str(edge / 1000), sum(orders for upto, orders in finished_upto.items() if upto <= edge))
        for edge in _COMPLETION_EDGES_MS
    ]
    return [*buckets, ("+Inf", sum(finished_upto.values()))]


class RequestMetrics:
    """Measures every request, by the template of its route: order ids would make a series each."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 500
        started = perf_counter()

        async def note_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, note_status)
        finally:
            metrics: Metrics = scope["app"].state.context.metrics
            route = getattr(scope.get("route"), "path", "unknown")
            if b"wait=" in scope["query_string"]:
                route += "?wait"
            method = scope["method"] if scope["method"] in _METHODS else "other"
            metrics.requests.labels(method, route, status).observe(perf_counter() - started)


_METHODS = ("GET", "POST", "PUT")
