"""Uniform methods and paths, before routing and authentication."""

from starlette.types import ASGIApp, Receive, Scope, Send


class RequestNormalization:
    """Route HEAD like GET, and a path with a trailing slash like the path without it.

    The server omits the body of a response to HEAD.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            path = scope["path"].rstrip("/") or "/"
            method = "GET" if scope["method"] == "HEAD" else scope["method"]
            scope = {**scope, "path": path, "method": method}
        await self._app(scope, receive, send)
