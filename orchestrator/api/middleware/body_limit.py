"""Reads the body of a request before the application runs, up to a limit."""

from collections.abc import Mapping

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from orchestrator.api.problem_details import problem

MAX_BODY_BYTES = 64 * 1024


class BodyLimit:
    """Return 413 for a larger body, with or without a Content-Length. FastAPI's own limit responds in plain
    text."""

    def __init__(
        self, app: ASGIApp, max_bytes: int = MAX_BODY_BYTES, larger: Mapping[str, int] | None = None
    ) -> None:
        """`larger` has other limits by path prefix."""
        self._app = app
        self._max_bytes = max_bytes
        self._larger = larger or {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD"):
            await self._app(scope, receive, send)
            return
        max_bytes = self._limit(scope["path"])
        body = None if _content_length(scope) > max_bytes else await _read(receive, max_bytes)
        if body is None:
            too_large = problem(413, f"the body is larger than {max_bytes} bytes")
            too_large.headers["Connection"] = "close"
            await too_large(scope, receive, send)
            return
        unread: Message | None = {"type": "http.request", "body": body, "more_body": False}

        async def replay() -> Message:
            nonlocal unread
            message, unread = unread, None
            return message or await receive()

        await self._app(scope, replay, send)

    def _limit(self, path: str) -> int:
        return next(
            (limit for prefix, limit in self._larger.items() if path.startswith(prefix)), self._max_bytes
        )


async def _read(receive: Receive, max_bytes: int) -> bytes | None:
    """Return the body, or None when it is too large. A client that disconnects ends the body."""
    body = bytearray()
    while True:
        message = await receive()
        body += message.get("body", b"")
        if len(body) > max_bytes:
            return None
        if not message.get("more_body", False):
            return bytes(body)


def _content_length(scope: Scope) -> int:
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            return int(value)
    return 0
