"""OpenTelemetry traces of requests, workflows, activities and attempts.

Enabled by OTEL_EXPORTER_OTLP_ENDPOINT. Without it, OpenTelemetry is not imported, because it costs every
process memory and start-up time. OpenTelemetry reads its own `OTEL_*` variables for sampling, headers and
batches.
"""

from threading import Thread
from time import time_ns
from typing import TYPE_CHECKING

from db.domain import AttemptOutcome
from db.orders import AttemptResult
from orchestrator.messages.activities import StepRequest
from orchestrator.settings import Settings

if TYPE_CHECKING:
    from fastapi.telemetry import TelemetryConfig
    from opentelemetry.sdk.trace import TracerProvider
    from temporalio.client import Interceptor

EXPORT_SECONDS = 2.0
CLOSE_SECONDS = 0.5
"""How long a process waits for the export of its last spans when it exits."""

UNTRACED_REQUESTS: "TelemetryConfig" = {
    "tracing": False,
    "metrics": False,
    "logs": False,
    "operation_spans": False,
    "auto_configure": False,
}
"""Disables FastAPI's own telemetry, which would otherwise detect a collector."""

_UNTRACED_PATHS = ("/health", "/metrics")


class Tracing:
    """The traces of one process."""

    def __init__(self, provider: "TracerProvider") -> None:
        from opentelemetry.trace import SpanKind, StatusCode
        from temporalio.contrib.opentelemetry import TracingInterceptor

        self._provider = provider
        self._tracer = provider.get_tracer("orchestrator")
        self._kind = SpanKind.CLIENT
        self._failed = StatusCode.ERROR
        # Tracing can be enabled and disabled while orders are running: workflow spans are not repeated on
        # replay, and the history contains nothing of them except a header.
        self.interceptor: Interceptor = TracingInterceptor(self._tracer)

    @classmethod
    def of(cls, settings: Settings, service: str, instance: str) -> "Tracing | None":
        """Return the traces of `service` for the configured collector, or None without one."""
        if settings.otel_exporter_otlp_endpoint is None:
            return None
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        provider = TracerProvider(
            resource=Resource.create({"service.name": service, "service.instance.id": instance}),
            shutdown_on_exit=False,
        )
        url = settings.otel_exporter_otlp_endpoint.rstrip("/") + "/v1/traces"
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(url, timeout=EXPORT_SECONDS)))
        return cls(provider)

    @property
    def request_telemetry(self) -> "TelemetryConfig":
        """FastAPI's telemetry options: a span for each request, within the trace of the client if it sends
        one."""
        return UNTRACED_REQUESTS | {
            "tracing": True,
            "tracer_provider": self._provider,
            "exclude": lambda scope: scope["path"] in _UNTRACED_PATHS,
        }

    def attempt_ended(self, request: StepRequest, result: AttemptResult) -> None:
        """Record a span for an attempt, as a child of the activity's span."""
        now = time_ns()
        attributes: dict[str, str | int] = {
            "order.id": request.order_id,
            "order.step": request.step.value,
            "order.attempt": result.number,
            "order.attempt.outcome": result.outcome.value,
        }
        if request.run_id is not None:
            attributes["order.run_id"] = request.run_id
        span = self._tracer.start_span(
            f"attempt:{request.step}",
            kind=self._kind,
            attributes=attributes,
            start_time=now - round(result.duration_ms * 1_000_000),
        )
        if result.outcome is not AttemptOutcome.OK:
            span.set_status(self._failed, result.detail.get("error"))
        span.end(now)

    def close(self) -> None:
        """Export the last spans, for at most CLOSE_SECONDS."""
        closing = Thread(target=self._provider.shutdown, name="last-spans", daemon=True)
        closing.start()
        closing.join(CLOSE_SECONDS)
