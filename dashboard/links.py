"""Routes of the pages, with the address of Streamlit's server written into its start page.

Streamlit's own start page, opened at /orders, first requests the server's health below /orders, and logs an
error in the browser's console. It does not search when `window.__streamlit` names the server.
"""

from pathlib import Path

import streamlit
from starlette.requests import Request
from starlette.responses import HTMLResponse
from starlette.routing import Route

PAGES = ("orders", "reviews", "latency", "load_tests", "audit")

_SERVER_ADDRESS = """<script>
window.__streamlit = { BACKEND_BASE_URL: location.origin + "/", MAIN_PAGE_BASE_URL: location.origin + "/" };
</script>
"""


def routes() -> list[Route]:
    start_page = (Path(streamlit.__file__).parent / "static" / "index.html").read_text(encoding="utf-8")
    content = start_page.replace("<head>", f"<head>{_SERVER_ADDRESS}", 1)

    async def serve(_request: Request) -> HTMLResponse:
        return HTMLResponse(content, headers={"Cache-Control": "no-cache"})

    return [Route(f"/{page}", serve, methods=["GET"]) for page in PAGES]
