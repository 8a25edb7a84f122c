"""Routes of the pages: Streamlit's index.html with the address of its server.

At /orders, the unchanged index.html first requests the health endpoint below /orders, which does not exist,
and logs an error in the browser console. With the address in `window.__streamlit` it does not guess the path.
"""

from pathlib import Path
from urllib.parse import urlencode

import streamlit
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from dashboard import filters

PAGES = ("orders", "reviews", "latency", "load_tests", "audit")

_SERVER_ADDRESS = """<script>
window.__streamlit = {{
    BACKEND_BASE_URL: location.origin + "{path}/", MAIN_PAGE_BASE_URL: location.origin + "{path}/"
}};
</script>
"""


def routes(base_path: str) -> list[Route]:
    """Return a route for each page except the default page, below `base_path` ("" or like "/dash")."""
    index_html = (Path(streamlit.__file__).parent / "static" / "index.html").read_text(encoding="utf-8")
    content = index_html.replace("<head>", f"<head>{_SERVER_ADDRESS.format(path=base_path)}", 1)

    async def serve(request: Request) -> Response:
        given = request.query_params.multi_items()
        query = filters.with_widget_times(given)
        if query != given:
            # Streamlit removes a time that its widget cannot read from the address.
            return RedirectResponse(f"?{urlencode(query)}")
        return HTMLResponse(content, headers={"Cache-Control": "no-cache"})

    return [Route(f"{base_path}/{page}", serve, methods=["GET"]) for page in PAGES]
