"""The Prometheus metrics of a worker: values, ports and the service discovery file."""

import json
import socket
from pathlib import Path

import httpx
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from db.domain import AttemptOutcome, Reason, State, Step
from db.orders import AttemptResult
from orchestrator.embedded import components
from orchestrator.embedded.preflight import check_ports
from orchestrator.errors import StackError, UsageError
from orchestrator.messages.activities import StepRequest
from orchestrator.messages.orders import OrderResult
from orchestrator.settings import Settings
from orchestrator.worker.metrics import WorkerMetrics, measured_runtime
from tests.ports import free_port_base

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def scraped(address: str) -> Samples:
    text = httpx.get(f"http://{address}/metrics", trust_env=False).text
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def sample(samples: Samples, name: str, **labels: str) -> float:
    return samples[name, frozenset(labels.items())]


def listening_addresses() -> set[tuple[str, int]]:
    return {
        tuple(connection.laddr)
        for connection in psutil.Process().net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    }


def test_a_worker_exports_attempts_and_the_time_left(tmp_path: Path) -> None:
    before = listening_addresses()
    with measured_runtime(Settings(orders_home=tmp_path), "order-worker-1") as runtime:
        (file,) = (tmp_path / "metrics").iterdir()
        assert file.name == "order-worker-1.json"
        (group,) = json.loads(file.read_text())
        assert group["labels"] == {"component": "order-worker-1"}
        (address,) = group["targets"]
        assert {f"{host}:{port}" for host, port in listening_addresses() - before} == {address}
        assert address.startswith("127.0.0.1:")

        metrics = WorkerMetrics(runtime.metric_meter)
        initial = scraped(address)
        assert sample(initial, "reconciler_orders_total") == 0
        assert sample(initial, "reconciler_failed_passes_total") == 0

        request = StepRequest("o-1", Step.CHARGE)
        metrics.attempt_ended(request, AttemptResult(1, AttemptOutcome.TIMEOUT, 250.0, {}))
        metrics.attempt_ended(request, AttemptResult(2, AttemptOutcome.OK, 2.0, {}))
        metrics.order_finished(OrderResult("o-1", State.COMPLETED, None, 6_000), 15_000)
        metrics.order_finished(OrderResult("o-2", State.FAILED, Reason.DEADLINE, 15_001), 15_000)
        metrics.orders_reconciled(2)
        metrics.reconciler_failed()
        samples = scraped(address)
        attempts, left = "order_attempt_duration_seconds", "order_time_left_seconds"
        assert sample(samples, f"{attempts}_count", step="charge", outcome="timeout") == 1
        assert sample(samples, f"{attempts}_sum", step="charge", outcome="ok") == 0.002
        assert sample(samples, f"{left}_sum", outcome="completed") == 9
        assert sample(samples, f"{left}_bucket", outcome="completed", le="8") == 0
        assert sample(samples, f"{left}_bucket", outcome="completed", le="9") == 1
        assert sample(samples, f"{left}_bucket", outcome="failed", le="0") == 1
        assert sample(samples, "reconciler_orders_total") == 2
        assert sample(samples, "reconciler_failed_passes_total") == 1
    assert not file.exists()


def test_a_worker_name_with_slashes_stays_inside_the_metrics_directory(tmp_path: Path) -> None:
    with measured_runtime(Settings(orders_home=tmp_path), "../../w@host"):
        (file,) = (tmp_path / "metrics").iterdir()
        assert file.name == ".._.._w@host.json"


def test_a_configured_port_is_used_and_no_discovery_file_is_written(tmp_path: Path) -> None:
    port = free_port_base()
    with measured_runtime(Settings(orders_home=tmp_path, worker_metrics_port=port), "w"):
        assert ("127.0.0.1", port) in listening_addresses()
        assert not (tmp_path / "metrics").exists()


def test_the_error_for_a_port_in_use_names_the_setting(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        settings = Settings(orders_home=tmp_path, worker_metrics_port=taken.getsockname()[1])
        with pytest.raises(UsageError, match="WORKER_METRICS_PORT"), measured_runtime(settings, "w"):
            pass


def test_the_workers_of_a_stack_use_consecutive_ports(tmp_path: Path) -> None:
    settings = Settings(orders_home=tmp_path, worker_metrics_port=9400, order_workers=2, shipping_workers=1)
    ports = {
        component.name: component.environment["WORKER_METRICS_PORT"]
        for component in components.components(settings)
        if "worker" in component.name
    }
    assert ports == {"order-worker-1": "9400", "order-worker-2": "9401", "shipping-worker-1": "9402"}
    clashing = settings.model_copy(update={"api_port": 9401})
    listening = [port for component in components.components(clashing) for port in component.ports]
    with pytest.raises(StackError, match="Port 9401 is set for the metrics of order-worker-2"):
        check_ports(listening)
