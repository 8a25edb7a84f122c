"""What Prometheus is told by a worker: the SDK's own figures and ours, through the SDK's exporter.

The names, units and meanings are listed in docs/reference/metrics.md.
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
from orchestrator.errors import UsageError
from orchestrator.messages import OrderResult, StepRequest
from orchestrator.security import bind_policy
from orchestrator.settings import Settings

WORKER_HEARTBEAT = timedelta(seconds=5)
MEMORY_SECONDS = 5.0

_ATTEMPT_SECONDS = "order_attempt_duration_seconds"
_BUDGET_LEFT = "order_budget_left_seconds"
_TASK_SECONDS = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 15.0]
_BUCKETS = {
    # An attempt is given up after 0.25 s.
    _ATTEMPT_SECONDS: [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.5, 1.0],
    # At most 0 left is late.
    _BUDGET_LEFT: [0.0, 0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0, 13.0, 15.0],
    # By the SDK's own buckets both end at a second or less.
    "temporal_workflow_task_execution_latency": _TASK_SECONDS,
    "temporal_workflow_task_schedule_to_start_latency": _TASK_SECONDS,
}

log = structlog.get_logger()


class WorkerMetrics:
    """Our own figures. A counter is there from the start, so that its first event is seen as a rise."""

    def __init__(self, meter: MetricMeter = MetricMeter.noop) -> None:
        self._attempts = meter.create_histogram_float(
            _ATTEMPT_SECONDS, "Gateways calls as they end, by step and outcome."
        )
        self._budget_left = meter.create_histogram_float(
            _BUDGET_LEFT, "How much of its limit an order had left at its outcome; 0 when it was late."
        )
        self._reconciled = meter.create_counter(
            "reconciler_orders", "Orders whose workflow was gone, and which the reconciler took to close."
        )
        self._failed_looks = meter.create_counter(
            "reconciler_failed_looks", "Looks for such orders that failed, mostly because a server was away."
        )
        self._memory = meter.create_gauge(
            "process_resident_memory_bytes", "Memory that the process has in use."
        )
        self._reconciled.add(0)
        self._failed_looks.add(0)
        # Attributes are bound once: it costs more than the recording.
        self._attempts_by = cache(self._bound_attempts)
        self._budget_left_by = cache(
            lambda outcome: self._budget_left.with_additional_attributes({"outcome": outcome})
        )

    def _bound_attempts(self, step: Step, outcome: str) -> MetricHistogramFloat:
        return self._attempts.with_additional_attributes({"step": step.value, "outcome": outcome})

    def attempt_ended(self, request: StepRequest, ended: AttemptResult) -> None:
        self._attempts_by(request.step, ended.outcome.value).record(ended.duration_ms / 1000)

    def order_finished(self, result: OrderResult, limit_ms: int) -> None:
        left_ms = max(limit_ms - result.completion_ms, 0)
        self._budget_left_by(result.outcome.value).record(left_ms / 1000)

    def orders_reconciled(self, orders: int) -> None:
        self._reconciled.add(orders)

    def reconciler_failed(self) -> None:
        self._failed_looks.add(1)

    async def follow_memory(self) -> None:
        """Keeps the gauge of this process's memory up to date, forever."""
        process = psutil.Process()
        while True:
            self._memory.set(process.memory_info().rss)
            await asyncio.sleep(MEMORY_SECONDS)


@contextmanager
def measured_runtime(settings: Settings, name: str) -> Iterator[Runtime]:
    """The SDK's runtime of a worker, with its exporter at WORKER_METRICS_PORT of BIND_ADDRESS.

    At port 0 the system chooses one. It is then written, until the end, to a file below ORDERS_HOME which
    Prometheus reads by itself. Raises UsageError when the port or address cannot be used, or the address
    needs keys and there are none.
    """
    bind_policy.require_api_keys(settings, "the worker's metrics")
    address = _numeric(settings.bind_address)
    before = _listening_ports()
    port = settings.worker_metrics_port
    exporter = PrometheusConfig(
        bind_address=f"[{address}]:{port}" if ":" in address else f"{address}:{port}",
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
    _publish(file, f"[{address}]:{chosen}" if ":" in address else f"{address}:{chosen}", name)
    try:
        yield runtime
    finally:
        file.unlink(missing_ok=True)


def _publish(file: Path, address: str, name: str) -> None:
    partial = file.with_suffix(".partial")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps([{"targets": [address], "labels": {"component": name}}]))
        # In one step: Prometheus may be reading it.
        partial.replace(file)
    except OSError as error:
        log.warning("address of metrics cannot be written", address=address, error=str(error))
    else:
        log.info("metrics served", address=address)


def _listening_ports() -> set[int]:
    return {
        connection.laddr.port
        for connection in psutil.Process().net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    }


def _numeric(address: str) -> str:
    """The IP address of a name: the exporter takes no other."""
    try:
        return str(socket.getaddrinfo(address, None, type=socket.SOCK_STREAM)[0][4][0])
    except OSError as error:
        raise UsageError(f"BIND_ADDRESS {address} is not an address of this machine") from error
