"""REST client of the load generator: one connection pool per process, large enough for an open loop.

Locust's own clients are not used. They allow ten concurrent requests by default, and when a server drops
connections, their HTTP library retries a GET up to once per pooled connection. Here each call is exactly one
request. Locust's table has a row for each request name, except for long polls. Its charts count only orders.
"""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import gevent.ssl
from geventhttpclient.connectionpool import ConnectionPool, SSLConnectionPool
from geventhttpclient.header import Headers
from geventhttpclient.response import HTTPParseError, HTTPSocketPoolResponse

from orchestrator.errors import ServiceUnavailable, UsageError
from orchestrator.rest_client import Json, auth_headers, require_no_credentials
from orchestrator.security import certificates

if TYPE_CHECKING:
    from locust.stats import RequestStats

MAX_CONNECTIONS = 20_000
CONNECT_SECONDS = 3.0
READ_SECONDS = 14.0
"""Longer than the longest long-poll of an order's status (10 s)."""

BLOCK_SIZE = 16 * 1024

_NO_NAMES: Mapping[int, str] = {}


class NoResponse(ServiceUnavailable):
    """The API sent no response: the connection was refused or broken, or the response timed out."""


class UntrustedCertificate(NoResponse):
    """The API's certificate is not valid."""


@dataclass(frozen=True)
class ApiResponse:
    """A status code and the JSON body, empty if the body is no JSON object."""

    status: int
    body: Json

    @property
    def is_ok(self) -> bool:
        return self.status == 200


class ApiClient:
    """Sends requests to the REST API. Every method raises NoResponse when there is no response."""

    def __init__(
        self,
        url: str,
        stats: "RequestStats | None" = None,
        max_connections: int = MAX_CONNECTIONS,
        read_seconds: float = READ_SECONDS,
        *,
        api_key: str | None = None,
    ) -> None:
        """Raises UsageError for an address that is not an HTTP URL, and for an invalid key."""
        require_no_credentials(url)
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageError(f"{url} is not the address of an API.")
        self._url = url
        self._stats = stats
        self._prefix = parts.path.rstrip("/")
        host, port = parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)
        self._head = f" HTTP/1.1\r\nHost: {parts.netloc}\r\n"
        self._head += "User-Agent: loadtest\r\nAccept: application/json\r\n"
        self._head += "".join(f"{name}: {value}\r\n" for name, value in auth_headers(api_key).items())
        limits: dict[str, Any] = {
            "size": max_connections,
            "connection_timeout": CONNECT_SECONDS,
            "network_timeout": read_seconds,
        }
        if parts.scheme == "http":
            self._pool = ConnectionPool(host, port, host, port, **limits)
        else:
            context = certificates.client_context(url, gevent.ssl.create_default_context)
            limits["ssl_context_factory"] = lambda **_: context
            self._pool = SSLConnectionPool(host, port, host, port, **limits)

    def close(self) -> None:
        self._pool.close()

    def get(self, path: str, name: str = "") -> ApiResponse:
        return self.call("GET", path, None, name)

    def call(
        self,
        method: str,
        path: str,
        body: Json | None,
        name: str,
        *,
        expected: tuple[int, ...] = (200,),
        names: Mapping[int, str] = _NO_NAMES,
        idempotency_key: str | None = None,
    ) -> ApiResponse:
        """Send one request. Locust's statistics count a status other than `expected` as a failure.

        `name` is the name of the request in the statistics; `names` replaces it for some status codes. A
        request without a name is not counted.
        """
        began = time.perf_counter()
        try:
            status, content = self._exchange(method, path, body, idempotency_key)
        except NoResponse as error:
            self._report(method, name, began, 0, f"no response: {type(error.__cause__).__name__}")
            raise
        problem = None if status in expected else f"HTTP status {status}"
        self._report(method, names.get(status, name), began, len(content), problem)
        return ApiResponse(status, _as_json(content))

    def text(self, path: str) -> str:
        """Return the body of a GET request. Raises ServiceUnavailable unless the status is 200."""
        status, content = self._exchange("GET", path, None)
        if status != 200:
            raise ServiceUnavailable(f"GET {path} returned HTTP status {status}")
        return content.decode()

    def _exchange(
        self, method: str, path: str, body: Json | None, idempotency_key: str | None = None
    ) -> tuple[int, bytes]:
        request = f"{method} {self._prefix}{path}{self._head}"
        if idempotency_key is not None:
            request += f"Idempotency-Key: {idempotency_key}\r\n"
        if body is None:
            message = (request + "\r\n").encode()
        else:
            content = json.dumps(body, separators=(",", ":")).encode()
            head = f"{request}Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
            message = head.encode() + content
        try:
            socket = self._pool.get_socket()
            try:
                socket.sendall(message)
            except BaseException:
                self._pool.release_socket(socket)
                raise
            # The response owns the socket from here, and releases it on failure too.
            response = HTTPSocketPoolResponse(
                socket, self._pool, block_size=BLOCK_SIZE, method=method, headers_type=Headers
            )
            return int(response.get_code()), bytes(response.read())
        except (OSError, HTTPParseError) as error:
            # HTTPConnectionClosed is an HTTPParseError; a gevent timeout of the socket is an OSError.
            if (problem := certificates.rejection(error)) is not None:
                raise UntrustedCertificate(
                    f"The certificate of {self._url} is rejected: {problem}"
                ) from error
            raise NoResponse(f"{method} {path}: {error!r}") from error

    def _report(self, method: str, name: str, began: float, length: int, problem: str | None) -> None:
        if self._stats is None or not name:
            return
        # Not with Locust's request event: its listeners would count the request as an order.
        entry = self._stats.entries[(name, method)]
        entry.log(round((time.perf_counter() - began) * 1000), length)
        if problem is not None:
            # This import patches the process for gevent, which only a process of Locust may do.
            from locust.stats import StatsError

            entry.log_error(problem)
            key = StatsError.create_key(method, name, problem)
            self._stats.errors.setdefault(key, StatsError(method, name, problem)).occurred()


def _as_json(content: bytes) -> Json:
    try:
        body = json.loads(content)
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}
