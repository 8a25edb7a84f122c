"""An OpenTelemetry collector for tests that stores the spans it receives over HTTP."""

import gzip
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue


@dataclass(frozen=True)
class Span:
    service: str
    name: str
    trace_id: str
    span_id: str
    parent_id: str
    attributes: dict[str, str | int]
    duration_ms: float
    is_error: bool


@dataclass
class Collector:
    url: str
    spans: list[Span] = field(default_factory=list)

    def store(self, request: ExportTraceServiceRequest) -> None:
        for group in request.resource_spans:
            service = _plain(group.resource.attributes)["service.name"]
            for scope in group.scope_spans:
                self.spans += [
                    Span(
                        service=str(service),
                        name=span.name,
                        trace_id=span.trace_id.hex(),
                        span_id=span.span_id.hex(),
                        parent_id=span.parent_span_id.hex(),
                        attributes=_plain(span.attributes),
                        duration_ms=(span.end_time_unix_nano - span.start_time_unix_nano) / 1e6,
                        is_error=span.status.code == 2,
                    )
                    for span in scope.spans
                ]

    def parent(self, span: Span) -> Span | None:
        return next((other for other in self.spans if other.span_id == span.parent_id), None)


@contextmanager
def collector() -> Iterator[Collector]:
    """Listen on a free port until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            assert self.path == "/v1/traces", self.path
            stored.store(ExportTraceServiceRequest.FromString(body))
            self.send_response(200)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Log nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        stored = Collector(f"http://127.0.0.1:{server.server_address[1]}")
        serving = Thread(target=server.serve_forever, daemon=True)
        serving.start()
        try:
            yield stored
        finally:
            server.shutdown()
            serving.join()


def _plain(attributes: Iterator[KeyValue]) -> dict[str, str | int]:
    return {each.key: _value(each.value) for each in attributes}


def _value(value: AnyValue) -> str | int:
    return value.int_value if value.HasField("int_value") else value.string_value
