"""OpenTelemetry traces, from a request through workflows and activities to each attempt.

They are on when OTEL_EXPORTER_OTLP_ENDPOINT is set. Nothing of OpenTelemetry is imported otherwise: its
packages cost every process memory and time to start. Sampling, headers and batches are read by
OpenTelemetry itself from its own `OTEL_*` variables.
"""

from threading import Thread
from time import time_ns
from typing import TYPE_CHECKING

from db.domain import AttemptOutcome
from db.orders import AttemptResult
from orchestrator.messages import StepRequest
from orchestrator.settings import Settings

if TYPE_CHECKING:
    from fastapi.telemetry import TelemetryConfig
    from opentelemetry.sdk.trace import TracerProvider
    from temporalio.client import Interceptor

EXPORT_SECONDS = 2.0
CLOSE_SECONDS = 0.5
"""A process that ends hands over its last spans, but is not kept by a collector that is away."""

UNTRACED_REQUESTS: "TelemetryConfig" = {
    "tracing": False,
    "metrics": False,
    "logs": False,
    "operation_spans": False,
    "auto_configure": False,
}
"""What FastAPI is told when there is no collector; it would look for one by itself."""

_ASKED_BY_MACHINES = ("/health", "/metrics")


class Tracing:
    """The traces of one process."""

    def __init__(self, provider: "TracerProvider") -> None:
        from opentelemetry.trace import SpanKind, StatusCode
        from temporalio.contrib.opentelemetry import TracingInterceptor

        self._provider = provider
        self._tracer = provider.get_tracer("orchestrator")
        self._kind = SpanKind.CLIENT
        self._failed = StatusCode.ERROR
        # Spans of workflows are made as they happen and never again on replay, and nothing of them is in the
        # history but a header: so tracing may be switched on and off while orders run.
        self.interceptor: Interceptor = TracingInterceptor(self._tracer)

    @classmethod
    def of(cls, settings: Settings, service: str, instance: str) -> "Tracing | None":
        """The traces of `service`, sent to the collector of the settings; None when there is none."""
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
    def of_requests(self) -> "TelemetryConfig":
        """What FastAPI is told to make a span of every request, in the caller's trace if it names one."""
        return UNTRACED_REQUESTS | {
            "tracing": True,
            "tracer_provider": self._provider,
            "exclude": lambda scope: scope["path"] in _ASKED_BY_MACHINES,
        }

    def attempt_ended(self, request: StepRequest, ended: AttemptResult) -> None:
        """Makes a span of an attempt, below its activity's."""
        now = time_ns()
        attributes: dict[str, str | int] = {
            "order.id": request.order_id,
            "order.step": request.step.value,
            "order.attempt": ended.number,
            "order.attempt.outcome": ended.outcome.value,
        }
        if request.run_id is not None:
            attributes["order.run_id"] = request.run_id
        span = self._tracer.start_span(
            f"attempt:{request.step}",
            kind=self._kind,
            attributes=attributes,
            start_time=now - round(ended.duration_ms * 1_000_000),
        )
        if ended.outcome is not AttemptOutcome.OK:
            span.set_status(self._failed, ended.detail.get("error"))
        span.end(now)

    def close(self) -> None:
        """Sends what is left, for as long as CLOSE_SECONDS."""
        closing = Thread(target=self._provider.shutdown, name="last-spans", daemon=True)
        closing.start()
        closing.join(CLOSE_SECONDS)
