"""The addresses of the pages, served so that the browser asks the right place at once.

Opened at /orders, Streamlit's own start page first looks for its server below /orders and only then, after
an error in the browser's console, at the root. Its start page reads `window.__streamlit`; told there where
the server is, it does not look around.
"""

from pathlib import Path

import streamlit
from starlette.requests import Request
from starlette.responses import HTMLResponse
from starlette.routing import Route

PAGES = ("orders", "reviews", "latency", "load_tests", "audit")

_TELLING = """<script>
window.__streamlit = { BACKEND_BASE_URL: location.origin + "/", MAIN_PAGE_BASE_URL: location.origin + "/" };
</script>
"""


def routes() -> list[Route]:
    """One route a page, each with Streamlit's start page."""
    start_page = (Path(streamlit.__file__).parent / "static" / "index.html").read_text(encoding="utf-8")
    told = start_page.replace("<head>", f"<head>{_TELLING}", 1)

    async def serve(_request: Request) -> HTMLResponse:
        return HTMLResponse(told, headers={"Cache-Control": "no-cache"})

    return [Route(f"/{page}", serve, methods=["GET"]) for page in PAGES]
