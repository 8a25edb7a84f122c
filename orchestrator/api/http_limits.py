"""What a connection may send before anybody looks at it: so many bytes, within so much time.

uvicorn keeps the head of a request, however long it grows and however slowly it comes, and keys are looked at
only once it is whole. So what is too large or too late is refused here, before it is known whose it is.
"""

from asyncio import TimerHandle, Transport
from http import HTTPStatus

import structlog
from starlette.responses import Response
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from orchestrator.api.problem_details import problem
from orchestrator.security.headers import API_HEADERS

MAX_HEAD_BYTES = 32 * 1024
"""The address and all headers."""

FRAMING_FACTOR = 8
"""A body in chunks of one byte each takes so many bytes for each of its own."""

HEAD_SECONDS = 10.0
BODY_SECONDS = 20.0
"""Each from its beginning to its end: the largest body takes 52 KB/s."""

MAX_CONNECTIONS = 2_000
"""Twice the orders that may be under way, each of which may be waited for on a connection of its own."""

log = structlog.get_logger()


class _Refused(Exception):
    """Ends the parsing of what the client sends."""


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's own, with bounds. What it refuses is answered by a problem document, and the connection
    closed."""

    _deadline: TimerHandle | None = None
    _head_bytes = 0
    _received_bytes = 0
    _body_bytes = 0
    _is_reading = False
    _refusal: tuple[int, str] = (HTTPStatus.BAD_REQUEST, "this is no HTTP request")

    # --- The connection -----------------------------------------------------------------------------

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > MAX_CONNECTIONS:
            log.warning("too many connections", connections=len(self.connections))
            self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, "too many connections; try again shortly")
        else:
            self._must_come_within(HEAD_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:
        self._came()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        if self._deadline is None and not self._is_reading:
            # Line ends before a request are none, and begin none.
            self._must_come_within(HEAD_SECONDS)
        super().data_received(data)
        if self._is_reading and not self.transport.is_closing():
            # What came before the last blank line is of an earlier request or has been counted.
            self._received_bytes += len(data) - (data.rfind(b"\r\n\r\n") + 4 if b"\r\n\r\n" in data else 0)
            framing = self._received_bytes - self._body_bytes
            if framing > MAX_HEAD_BYTES + FRAMING_FACTOR * self._body_bytes:
                self._refuse(*_HEAD_TOO_LARGE)

    def handle_websocket_upgrade(self) -> None:
        self._came()
        super().handle_websocket_upgrade()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002
        self._refuse(*self._refusal)

    # --- The parser ---------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._is_reading = True
        self._head_bytes = self._received_bytes = self._body_bytes = 0
        self._must_come_within(HEAD_SECONDS)

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        # Of a trailer, too.
        self._count(len(name) + len(value))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._must_come_within(BODY_SECONDS)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._is_reading = False
        self._came()
        super().on_message_complete()

    def _count(self, n_bytes: int) -> None:
        self._head_bytes += n_bytes
        if self._head_bytes > MAX_HEAD_BYTES:
            self._refusal = _HEAD_TOO_LARGE
            raise _Refused

    # --- Time ---------------------------------------------------------------------------------------

    def _must_come_within(self, seconds: float) -> None:
        self._came()
        self._deadline = self.loop.call_later(seconds, self._is_late, seconds)

    def _came(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _is_late(self, seconds: float) -> None:
        if self.flow.read_paused:
            # It is we who do not read on, while an earlier request is under way.
            self._must_come_within(seconds)
        elif self._is_reading:
            self._refuse(HTTPStatus.REQUEST_TIMEOUT, f"the request did not come within {seconds:.0f} s")
        else:
            self.transport.close()

    # --- The refusal --------------------------------------------------------------------------------

    def _refuse(self, status: int, detail: str) -> None:
        """Answers, unless an answer is under way, and closes the connection."""
        if self.transport.is_closing():
            return
        is_answering = self.cycle is not None and self.cycle.response_started
        if not self.pipeline and (not is_answering or self.cycle.response_complete):
            self.transport.write(_as_bytes(problem(status, detail)))
        if self.cycle is not None:
            # Whoever works on the request learns that nobody waits for it.
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self._came()
        self.transport.close()


_HEAD_TOO_LARGE = (
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    f"address and headers are larger than {MAX_HEAD_BYTES} bytes",
)


def _as_bytes(answer: Response) -> bytes:
    headers = [*answer.raw_headers, (b"connection", b"close")]
    headers += [(name.lower().encode(), value.encode()) for name, value in API_HEADERS.items()]
    lines = b"".join(name + b": " + value + b"\r\n" for name, value in headers)
    return b"".join((STATUS_LINE[answer.status_code], lines, b"\r\n", bytes(answer.body)))
