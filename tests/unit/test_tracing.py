"""Spans of attempts."""

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from db.domain import AttemptOutcome, Step
from db.orders import AttemptResult
from orchestrator.messages.activities import StepRequest
from orchestrator.observability.tracing import Tracing
from orchestrator.settings import Settings


@pytest.mark.parametrize("outcome", [AttemptOutcome.ERROR, AttemptOutcome.TIMEOUT, AttemptOutcome.DECLINED])
def test_the_span_of_a_failed_attempt_has_outcome_and_error(outcome: AttemptOutcome) -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    request = StepRequest("o-1", Step.CHARGE, run_id="r-1")
    Tracing(provider).attempt_ended(request, AttemptResult(3, outcome, 250.5, {"error": "no answer"}))
    (span,) = exporter.get_finished_spans()
    assert span.name == "attempt:charge"
    assert span.attributes == {
        "order.id": "o-1",
        "order.run_id": "r-1",
        "order.step": "charge",
        "order.attempt": 3,
        "order.attempt.outcome": outcome.value,
    }
    assert not span.status.is_ok
    assert span.status.description == "no answer"
    assert span.start_time is not None
    assert span.end_time is not None
    assert span.end_time - span.start_time == 250_500_000


def test_there_is_no_tracing_without_a_collector() -> None:
    assert Tracing.of(Settings(otel_exporter_otlp_endpoint=None), "order-api", "api") is None
