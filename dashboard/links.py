"""Routes of the pages: Streamlit's index.html with the address of its server.

At /orders, the unchanged index.html first requests the health endpoint below /orders, which does not exist,
and logs an error in the browser console. With the address in `window.__streamlit` it does not guess the path.

Pages with charts also preload Plotly (4.7 MB): the browser parses it while the server runs the page.
"""

from collections.abc import Awaitable, Callable
from pathlib import Path
from urllib.parse import urlencode

import streamlit
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from dashboard import filters

PAGES = ("", "orders", "reviews", "latency", "load_tests", "audit", "stage")
CHART_PAGES = ("", "latency", "load_tests")

Endpoint = Callable[[Request], Awaitable[Response]]

_SERVER_ADDRESS = """<script>
window.__streamlit = {{
    BACKEND_BASE_URL: location.origin + "{path}/", MAIN_PAGE_BASE_URL: location.origin + "{path}/"
}};
</script>
"""


def routes(base_path: str) -> list[Route]:
    """Return a route for each page, below `base_path` ("" or like "/dash")."""
    static = Path(streamlit.__file__).parent / "static"
    head = f"<head>{_SERVER_ADDRESS.format(path=base_path)}"
    content = (static / "index.html").read_text(encoding="utf-8").replace("<head>", head, 1)
    plotly = "".join(
        f'<link rel="modulepreload" href="./static/js/{path.name}">'
        for path in (static / "static" / "js").glob("PlotlyChart.*.js")
    )
    pages = [
        Route(f"{base_path}/{page}", _page(content, plotly if page in CHART_PAGES else ""), methods=["GET"])
        for page in PAGES
    ]
    # Streamlit's links to the default page have its name.
    return [*pages, Route(f"{base_path}/overview", _to_default_page, methods=["GET"])]


async def _to_default_page(_request: Request) -> Response:
    return RedirectResponse("./")


def _page(content: str, preload: str) -> Endpoint:
    html = content.replace("</title>", f"</title>{preload}", 1)

    async def serve(request: Request) -> Response:
        given = request.query_params.multi_items()
        query = filters.with_widget_times(given)
        if query != given:
            # Streamlit removes a time that its widget cannot read from the address.
            return RedirectResponse(f"?{urlencode(query)}")
        return HTMLResponse(html, headers={"Cache-Control": "no-cache"})

    return serve
