"""Prometheus metrics of a worker: those of the Temporal SDK and our own, served by the SDK's exporter.

docs/reference/metrics.md lists names, units and meanings.
"""

import asyncio
import json
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from pathlib import Path

import psutil
import structlog
from temporalio.common import MetricHistogramFloat, MetricMeter
from temporalio.runtime import PrometheusConfig, Runtime, TelemetryConfig

from db.domain import Step
from db.orders import AttemptResult
from orchestrator import output_file
from orchestrator.errors import UsageError
from orchestrator.messages.activities import Activity, StepRequest
from orchestrator.messages.orders import OrderResult
from orchestrator.settings import Settings

WORKER_HEARTBEAT = timedelta(seconds=5)
MEMORY_INTERVAL_SECONDS = 5.0

_ATTEMPT_SECONDS = "order_attempt_duration_seconds"
_TIME_LEFT = "order_time_left_seconds"
_TASK_SECONDS = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 15.0]
_BUCKETS = {
    # An attempt times out after 0.2 s.
    _ATTEMPT_SECONDS: [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.5, 1.0],
    # 0 is a late order.
    _TIME_LEFT: [0.0, 0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0, 13.0, 15.0],
    # The SDK's default buckets end at a second or less.
    "temporal_workflow_task_execution_latency": _TASK_SECONDS,
    "temporal_workflow_task_schedule_to_start_latency": _TASK_SECONDS,
}

log = structlog.get_logger()


class WorkerMetrics:
    """The order metrics of a worker. Counters start at 0, so that Prometheus sees their first increase."""

    def __init__(self, meter: MetricMeter = MetricMeter.noop) -> None:
        self._attempts = meter.create_histogram_float(
            _ATTEMPT_SECONDS, "Duration of gateway calls, by step and outcome."
        )
        self._time_left = meter.create_histogram_float(
            _TIME_LEFT, "Time left until the deadline at the outcome; 0 for a late order."
        )
        self._reconciled = meter.create_counter(
            "reconciler_orders",
            "Orders whose workflow closed without an outcome and that the reconciler finished.",
        )
        self._failed_passes = meter.create_counter(
            "reconciler_failed_passes",
            "Reconciler passes that failed, usually because a server was unavailable.",
        )
        self._rejected_values = meter.create_counter(
            "database_values_rejected", "Activities that failed because the order database rejected a value."
        )
        self._failed_orders = meter.create_counter(
            "reconciler_failed_orders", "Orders that the reconciler could not look up or close."
        )
        self._failed_tasks = meter.create_counter(
            "background_task_failures", "Unexpected errors of background tasks, which then start again."
        )
        self._memory = meter.create_gauge("process_resident_memory_bytes", "Resident memory of the process.")
        self._reconciled.add(0)
        self._failed_passes.add(0)
        for name in Activity:
            self._rejected_values.add(0, {"activity": name.value})
        self._failed_orders.add(0)
        self._failed_tasks.add(0)
        # Binding the attributes costs more than recording a value, so it is done once.
        self._attempts_by = cache(self._bind_attempts)
        self._time_left_by = cache(
            lambda outcome: self._time_left.with_additional_attributes({"outcome": outcome})
        )

    def _bind_attempts(self, step: Step, outcome: str) -> MetricHistogramFloat:
        return self._attempts.with_additional_attributes({"step": step.value, "outcome": outcome})

    def attempt_ended(self, request: StepRequest, ended: AttemptResult) -> None:
        self._attempts_by(request.step, ended.outcome.value).record(ended.duration_ms / 1000)

    def order_finished(self, result: OrderResult, limit_ms: int) -> None:
        left_ms = max(limit_ms - result.completion_ms, 0)
        self._time_left_by(result.outcome.value).record(left_ms / 1000)

    def orders_reconciled(self, orders: int) -> None:
        self._reconciled.add(orders)

    def reconciler_failed(self) -> None:
        self._failed_passes.add(1)

    def value_rejected(self, activity_type: str) -> None:
        self._rejected_values.add(1, {"activity": activity_type})

    def reconciler_failed_order(self) -> None:
        self._failed_orders.add(1)

    def background_task_failed(self) -> None:
        self._failed_tasks.add(1)

    async def update_memory(self) -> None:
        """Update the gauge of this process's memory, forever."""
        process = psutil.Process()
        while True:
            self._memory.set(process.memory_info().rss)
            await asyncio.sleep(MEMORY_INTERVAL_SECONDS)


@contextmanager
def measured_runtime(settings: Settings, name: str) -> Iterator[Runtime]:
    """The SDK's runtime of a worker, with a metrics exporter at BIND_ADDRESS:WORKER_METRICS_PORT.

    With port 0 the system chooses a port. It is written to a file below ORDERS_HOME, where Prometheus
    discovers it, until the block ends. Raises UsageError if the port or address cannot be used.
    """
    address = _ip_address(settings.bind_address)
    before = _listening_ports()
    port = settings.worker_metrics_port
    exporter = PrometheusConfig(
        bind_address=_host_and_port(address, port),
        counters_total_suffix=True,
        unit_suffix=True,
        durations_as_seconds=True,
        histogram_bucket_overrides=_BUCKETS,
    )
    try:
        runtime = Runtime(
            telemetry=TelemetryConfig(metrics=exporter, attach_service_name=False),
            worker_heartbeat_interval=WORKER_HEARTBEAT,
        )
    except ValueError as error:
        raise UsageError(f"{error}; set WORKER_METRICS_PORT or BIND_ADDRESS") from error
    if port:
        yield runtime
        return
    (chosen,) = _listening_ports() - before
    file = settings.metrics_targets / (re.sub(r"[^\w.@-]", "_", name) + ".json")
    _publish(file, _host_and_port(address, chosen), name)
    try:
        yield runtime
    finally:
        file.unlink(missing_ok=True)


def _publish(file: Path, address: str, name: str) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        # Prometheus can be reading the file, which is replaced atomically.
        output_file.write(file, json.dumps([{"targets": [address], "labels": {"component": name}}]))
    except OSError as error:
        log.warning("cannot publish the metrics address", address=address, error=str(error))
    else:
        log.info("metrics served", address=address)


def _listening_ports() -> set[int]:
    return {
        connection.laddr.port
        for connection in psutil.Process().net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    }


def _host_and_port(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _ip_address(address: str) -> str:
    """Resolve a host name: the exporter only accepts IP addresses."""
    try:
        return str(socket.getaddrinfo(address, None, type=socket.SOCK_STREAM)[0][4][0])
    except OSError as error:
        raise UsageError(f"BIND_ADDRESS {address} cannot be resolved") from error
