"""Imports before the first user, and scripts that the browser loads before the first chart."""

import re
import subprocess
import sys

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from dashboard import links, plotly_figure

SCRIPT = """
import gc, sys
from dashboard import preload
preload.preload()
needed = ("plotly.graph_objects", "pandas", "loadtest.charts.order.timeline")
missing = [name for name in needed if name not in sys.modules]
assert not missing, missing
assert not any(name.startswith("dashboard.pages") for name in sys.modules)
# Most objects are excluded from garbage collection.
assert gc.get_freeze_count() > 10 * len(gc.get_objects()), (gc.get_freeze_count(), len(gc.get_objects()))
"""


def test_preloaded_objects_are_excluded_from_garbage_collection() -> None:
    subprocess.run([sys.executable, "-c", SCRIPT], check=True, timeout=120)


@pytest.mark.parametrize("base_path", ["", "/shop"])
@pytest.mark.parametrize(
    ("page", "script"),
    [("", "plotly-"), ("latency", "plotly-"), ("load_tests", "BidiComponent."), ("orders", "DataFrame.")],
)
async def test_a_page_names_the_scripts_that_draw_it(base_path: str, page: str, script: str) -> None:
    scripts = Mount(f"{base_path}/static", StaticFiles(directory=links.STATIC / "static"))
    plotly = Route(f"{base_path}{plotly_figure.SCRIPT_PATH}", plotly_figure.serve_script)
    app = Starlette(routes=[scripts, plotly, *links.routes(base_path)])
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://dashboard") as client:
        response = await client.get(f"{base_path}/{page}")
        urls = re.findall(r"<(.+?)>; rel=modulepreload", response.headers["link"])
        assert any(f"/{script}" in url for url in urls)
        for url in urls:
            assert (await client.get(str(response.url.join(url)))).status_code == httpx.codes.OK
        assert f'BACKEND_BASE_URL: location.origin + "{base_path}/"' in response.text
        assert "link" not in (await client.get(f"{base_path}/reviews")).headers
