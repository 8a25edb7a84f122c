"""Routes of the pages: Streamlit's index.html with the address of its server.

At /orders, the unchanged index.html first requests the health endpoint below /orders, which does not exist,
and logs an error in the browser console. With the address in `window.__streamlit` it does not guess the path.

Pages with charts or tables also name the scripts that draw them (Plotly has 4.7 MB): the browser loads and
compiles these while it connects. Streamlit's page requests them only when the first chart arrives.
"""

from collections.abc import Awaitable, Callable
from pathlib import Path
from urllib.parse import urlencode

import streamlit
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from dashboard import filters
from dashboard.plotly_figure import SCRIPT_PATH

PLOTLY = "plotly"

PAGES = {
    "": (PLOTLY, "Metric", "Html", "BidiComponent"),
    "orders": ("DataFrame",),
    "reviews": (),
    "latency": (PLOTLY, "Metric", "BidiComponent"),
    "load_tests": (PLOTLY, "BidiComponent"),
    "audit": (),
    "stage": (),
}
"""The scripts that each page preloads, by name without the hash of their content."""

STATIC = Path(streamlit.__file__).with_name("static")

Endpoint = Callable[[Request], Awaitable[Response]]

_SERVER_ADDRESS = """<script>
window.__streamlit = {{
    BACKEND_BASE_URL: location.origin + "{path}/", MAIN_PAGE_BASE_URL: location.origin + "{path}/"
}};
</script>
"""


def routes(base_path: str) -> list[Route]:
    """Return a route for each page, below `base_path` ("" or like "/dash")."""
    head = f"<head>{_SERVER_ADDRESS.format(path=base_path)}"
    html = (STATIC / "index.html").read_text(encoding="utf-8").replace("<head>", head, 1)
    pages = [
        Route(f"{base_path}/{page}", _page(html, [_preload(name) for name in scripts]), methods=["GET"])
        for page, scripts in PAGES.items()
    ]
    # Streamlit's links to the default page have its name.
    return [*pages, Route(f"{base_path}/overview", _to_default_page, methods=["GET"])]


async def _to_default_page(_request: Request) -> Response:
    return RedirectResponse("./")


def _preload(script: str) -> str:
    """Return the value of a Link header. Its URL is relative to the page."""
    if script == PLOTLY:
        return f"<.{SCRIPT_PATH}>; rel=modulepreload"
    (path,) = (STATIC / "static" / "js").glob(f"{script}.*.js")
    return f"<./static/js/{path.name}>; rel=modulepreload"


def _page(html: str, preloads: list[str]) -> Endpoint:
    headers = {"Cache-Control": "no-cache"} | ({"Link": ", ".join(preloads)} if preloads else {})

    async def serve(request: Request) -> Response:
        given = request.query_params.multi_items()
        query = filters.with_widget_times(given)
        if query != given:
            # Streamlit removes a time that its widget cannot read from the address.
            return RedirectResponse(f"?{urlencode(query)}")
        return HTMLResponse(html, headers=headers)

    return serve
