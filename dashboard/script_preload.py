"""Lets the browser load and compile the scripts of charts while it connects to the page.

Streamlit's page requests them only when the first chart arrives.
"""

from pathlib import Path

import streamlit
from starlette.types import ASGIApp, Receive, Scope, Send

from orchestrator.security.headers import with_headers

SCRIPTS = Path(streamlit.__file__).with_name("static") / "static" / "js"
_OF_PAGE = {
    "": ("PlotlyChart", "Metric", "embed"),
    "latency": ("PlotlyChart", "Metric"),
    "load_tests": ("PlotlyChart",),
    "orders": ("DataFrame",),
}
"""The scripts of each page with charts or tables, by name without the hash of their content. `embed` draws
the sparklines of metrics."""


class ScriptPreloadMiddleware:
    """ASGI middleware that adds a Link header with the scripts of a page to its HTML."""

    def __init__(self, app: ASGIApp, base_path: str) -> None:
        self._app = app
        self._headers = {
            f"{base_path}/{page}": {"Link": ", ".join(_link(base_path, name) for name in names)}
            for page, names in _OF_PAGE.items()
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (headers := self._headers.get(scope["path"])) is not None:
            send = with_headers(send, headers)
        await self._app(scope, receive, send)


def _link(base_path: str, name: str) -> str:
    (file,) = SCRIPTS.glob(f"{name}.*.js")
    return f"<{base_path}/static/js/{file.name}>; rel=modulepreload"
