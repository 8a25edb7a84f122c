"""Request durations for Prometheus."""

from time import perf_counter

from starlette.types import ASGIApp, Message, Receive, Scope, Send

_METHODS = ("GET", "POST", "PUT")


class RequestMetrics:
    """Records the duration of each request by method, route template and status."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 500
        started = perf_counter()

        async def record_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, record_status)
        finally:
            # The route template, not the path: each order id would create a time series.
            route = getattr(scope.get("route"), "path", "unknown")
            if b"wait=" in scope["query_string"]:
                route += "?wait"
            method = scope["method"] if scope["method"] in _METHODS else "other"
            metrics = scope["app"].state.context.metrics
            metrics.requests.labels(method, route, status).observe(perf_counter() - started)
