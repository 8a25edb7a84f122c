"""Security headers of every HTTP response: of the API, the dashboard and the load test page."""

from collections.abc import Mapping

from starlette.datastructures import MutableHeaders
from starlette.types import Message, Send

_COMMON = {"X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY"}

API_HEADERS = _COMMON | {
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}

PAGE_HEADERS = _COMMON | {
    "Referrer-Policy": "same-origin",
    "Content-Security-Policy": "frame-ancestors 'none'; base-uri 'self'; object-src 'none'",
}


def with_headers(send: Send, added: Mapping[str, str]) -> Send:
    """Return an ASGI `send` that sets these headers on the response."""

    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in added.items():
                headers[name] = value
        await send(message)

    return send_with_headers
