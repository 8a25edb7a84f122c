"""Security headers of the API."""

from starlette.types import ASGIApp, Receive, Scope, Send

from orchestrator.security.headers import API_HEADERS, with_headers

_DOCS_PATH = "/docs"
_DOCS_HEADERS = API_HEADERS | {
    # FastAPI's page loads Swagger UI from a CDN and starts it by an inline script.
    "Content-Security-Policy": (
        "default-src 'none'; connect-src 'self'; img-src 'self' data: https://fastapi.tiangolo.com; "
        "script-src 'unsafe-inline' https://cdn.jsdelivr.net; "
        "style-src 'unsafe-inline' https://cdn.jsdelivr.net; base-uri 'none'; frame-ancestors 'none'"
    )
}


class SecurityHeaders:
    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            send = with_headers(send, _DOCS_HEADERS if scope["path"] == _DOCS_PATH else API_HEADERS)
        await self._app(scope, receive, send)
