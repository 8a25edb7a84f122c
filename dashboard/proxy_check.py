"""Explains why a reverse proxy's configuration keeps a page blank.

A page needs its WebSocket connection. If a proxy does not forward it, or replaces the Host header, the page
stays blank and shows no reason.
"""

from urllib.parse import urlsplit

import structlog
from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

STREAM_PATH = "/_stcore/stream"
NO_UPGRADE = (
    "The reverse proxy does not forward WebSocket connections: it must use HTTP/1.1 and send the headers "
    "Upgrade and Connection. See docs/how-to/use-a-reverse-proxy.md."
)
WRONG_HOST = (
    "The browser's address is {origin} and the Host header is {host}: the reverse proxy must forward the "
    "Host header of the browser. See docs/how-to/use-a-reverse-proxy.md."
)

log = structlog.get_logger()


class ProxyCheckMiddleware:
    """ASGI middleware that rejects WebSocket requests of a misconfigured proxy, and logs the reason."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        reason = _reason(scope)
        if reason is None:
            await self._app(scope, receive, send)
            return
        log.warning("page not served", reason=reason)
        status = 426 if scope["type"] == "http" else 403
        # Starlette sends the response of a WebSocket request as a rejection of the handshake.
        await PlainTextResponse(reason + "\n", status_code=status)(scope, receive, send)


def _reason(scope: Scope) -> str | None:
    if scope["type"] not in ("http", "websocket") or not scope["path"].endswith(STREAM_PATH):
        return None
    if scope["type"] == "http":
        return NO_UPGRADE
    headers = Headers(scope=scope)
    origin, host = headers.get("origin"), headers.get("host")
    if (
        origin is None
        or host is None
        or _without_default_port(urlsplit(origin).netloc) == _without_default_port(host)
    ):
        return None
    return WRONG_HOST.format(origin=urlsplit(origin).netloc, host=host)


def _without_default_port(host: str) -> str:
    return host.removesuffix(":443").removesuffix(":80").lower()
