"""Traces at a collector: an order is part of its client's trace, from the request to each attempt."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import httpx
import pytest

from orchestrator.embedded import Stack
from orchestrator.embedded.layout import PROJECT_ROOT, stack_environment
from orchestrator.settings import STACK_MARKER, Settings
from tests.collector import Collector, Span, collector
from tests.live import LiveApi, eventually
from tests.ports import free_port_base

pytestmark = pytest.mark.stack

STOP_SECONDS = 10
CLIENT_TRACE, CLIENT_SPAN = "a" * 32, "b" * 16


@contextmanager
def process(settings: Settings, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process as the stack starts it. It exports its spans when it exits, or when a batch is full."""
    environment = stack_environment(settings) | {"OTEL_BSP_SCHEDULE_DELAY": "600000"}
    del environment[STACK_MARKER]
    with subprocess.Popen(
        [sys.executable, "-m", "orchestrator.processes", *arguments],
        cwd=PROJECT_ROOT,
        env=environment,
    ) as running:
        try:
            yield running
        finally:
            running.kill()


def stop(running: subprocess.Popen[bytes]) -> None:
    running.terminate()
    assert running.wait(STOP_SECONDS) == 0


def healthy(api: LiveApi) -> bool:
    try:
        return api.http.get("/health").status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture(scope="module")
def traced(live_stack: Stack) -> Iterator[Collector]:
    """The spans of one order, processed by separate worker and API processes on the servers of the stack."""
    with collector() as collected, ExitStack() as processes:
        settings = live_stack.settings.model_copy(
            update={
                "database_url": live_stack.settings.order_database_url,
                "temporal_address": live_stack.settings.temporal_target,
                "order_task_queue": "traced-orders",
                "shipping_task_queue": "traced-shipping",
                "port_base": free_port_base(),
                "otel_exporter_otlp_endpoint": collected.url,
            }
        )
        running = [
            processes.enter_context(process(settings, *arguments))
            for arguments in (("worker", "order"), ("worker", "shipping"), ("api",))
        ]
        with LiveApi(settings.api_url) as api:
            eventually(lambda: healthy(api), seconds=60)
            api.http.headers["traceparent"] = f"00-{CLIENT_TRACE}-{CLIENT_SPAN}-01"
            api.start("traced")
            del api.http.headers["traceparent"]
            assert api.finished("traced")["state"] == "completed"
            assert api.http.get("/metrics").status_code == 200
        for each in running:
            stop(each)
        yield collected


def single(collected: Collector, name: str) -> Span:
    (found,) = [span for span in collected.spans if span.name == name]
    return found


def test_an_order_is_one_trace_from_its_request_to_each_attempt(traced: Collector) -> None:
    request = single(traced, "POST /orders/{order_id}/start")
    assert (request.trace_id, request.parent_id) == (CLIENT_TRACE, CLIENT_SPAN)
    assert request.service == "order-api"
    of_the_order = [span for span in traced.spans if span.trace_id == request.trace_id]
    assert all(traced.parent(span) is not None for span in of_the_order if span is not request)
    names = {span.name for span in of_the_order}
    assert {
        "StartWorkflow:OrderWorkflow",
        "RunWorkflow:OrderWorkflow",
        "CompleteWorkflow:OrderWorkflow",
        "StartChildWorkflow:ShippingWorkflow",
        "RunWorkflow:ShippingWorkflow",
        "CompleteWorkflow:ShippingWorkflow",
        "RunActivity:FinishOrder",
    } <= names
    assert {span.service for span in of_the_order} == {"order-api", "order-worker", "shipping-worker"}


@pytest.mark.parametrize(
    ("step", "workflow", "service"),
    [
        ("receive", "OrderWorkflow", "order-worker"),
        ("validate", "OrderWorkflow", "order-worker"),
        ("charge", "OrderWorkflow", "order-worker"),
        ("prepare", "ShippingWorkflow", "shipping-worker"),
        ("dispatch", "ShippingWorkflow", "shipping-worker"),
    ],
)
def test_the_span_of_an_attempt_is_below_its_activity_and_workflow(
    traced: Collector, step: str, workflow: str, service: str
) -> None:
    attempt = [span for span in traced.spans if span.name == f"attempt:{step}"][-1]
    assert attempt.service == service
    assert attempt.attributes["order.id"] == "traced"
    assert attempt.attributes["order.step"] == step
    assert attempt.attributes["order.attempt.outcome"] == "ok"
    assert not attempt.is_error
    path = [attempt]
    while (parent := traced.parent(path[-1])) is not None:
        path.append(parent)
    expected = [
        f"attempt:{step}",
        "RunActivity:RunStepBatch",
        "StartActivity:RunStepBatch",
        "StartWorkflow:OrderWorkflow",
        "POST /orders/{order_id}/start",
    ]
    if workflow == "ShippingWorkflow":
        expected.insert(3, "StartChildWorkflow:ShippingWorkflow")
    assert [span.name for span in path] == expected
    assert attempt.duration_ms <= path[1].duration_ms


def test_health_checks_and_scrapes_are_not_traced(traced: Collector) -> None:
    assert not [span for span in traced.spans if "health" in span.name or "metrics" in span.name]


def test_an_unavailable_collector_does_not_delay_orders_or_the_shutdown(live_stack: Stack) -> None:
    unused_url = f"http://127.0.0.1:{free_port_base()}"
    settings = live_stack.settings.model_copy(
        update={
            "database_url": live_stack.settings.order_database_url,
            "temporal_address": live_stack.settings.temporal_target,
            "port_base": free_port_base(),
            "otel_exporter_otlp_endpoint": unused_url,
        }
    )
    with process(settings, "api") as running, LiveApi(settings.api_url) as api:
        eventually(lambda: healthy(api), seconds=60)
        assert api.finished(api.start())["state"] == "completed"
        running.terminate()
        assert running.wait(30) == 0


def test_without_a_collector_opentelemetry_is_not_imported() -> None:
    # FastAPI imports the OpenTelemetry API package itself.
    code = (
        "import sys; from orchestrator.settings import Settings; import orchestrator.worker.main;"
        "print([name for name in sys.modules if name.startswith('opentelemetry')]);"
        "from orchestrator.api.app import create_app; create_app(Settings(_env_file=None));"
        "heavy = ('opentelemetry.sdk', 'opentelemetry.exporter', 'temporalio.contrib');"
        "print([name for name in sys.modules if name.startswith(heavy)])"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    printed = subprocess.run(
        [sys.executable, "-c", code],
        cwd=PROJECT_ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert printed.stdout.split() == ["[]", "[]"]
