"""Imports before the first user, and scripts that the browser loads before the first chart."""

import re
import subprocess
import sys

import httpx
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import HTMLResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from dashboard.script_preload import SCRIPTS, ScriptPreloadMiddleware

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
async def test_a_page_with_charts_links_to_the_scripts_that_draw_them(base_path: str) -> None:
    app = Starlette(
        routes=[
            Mount(f"{base_path}/static/js", StaticFiles(directory=SCRIPTS)),
            Route(f"{base_path}/{{page}}", lambda _: HTMLResponse("")),
        ],
        middleware=[Middleware(ScriptPreloadMiddleware, base_path=base_path)],
    )
    client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://dashboard")
    header = (await client.get(f"{base_path}/latency")).headers["link"]
    urls = re.findall(r"<(.+?)>; rel=modulepreload", header)
    assert any("PlotlyChart" in url for url in urls)
    for url in urls:
        assert (await client.get(url)).status_code == httpx.codes.OK
    assert "link" not in (await client.get(f"{base_path}/reviews")).headers
