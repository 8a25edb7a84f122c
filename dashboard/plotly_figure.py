"""Draws Plotly figures.

Streamlit's own element for charts replaces the chart when its figure changes: at each refresh of a live page,
the user would lose the zoom. It also draws each chart twice, the second time for printing.
"""

import gzip
from functools import cache
from importlib.metadata import version
from pathlib import Path

import plotly.graph_objects as go
import streamlit as st
from plotly.offline import get_plotlyjs
from starlette.requests import Request
from starlette.responses import Response

SCRIPT_PATH = f"/plotly-{version('plotly')}.js"

FIGURE = st.components.v2.component(
    "plotly_figure",
    html='<div role="figure"></div>',
    js=Path(__file__).with_suffix(".js").read_text(encoding="utf-8"),
    isolate_styles=False,
)
"""Its trigger `clicked` is the custom data of the mark on which the user has clicked."""


def draw(figure: go.Figure, key: str, description: str, *, base_path: str, zoom: bool) -> str | None:
    """Draw a figure and return the custom data of the mark on which the user has just clicked.

    `description` is for screen readers, and `base_path` is that of the dashboard. The next figure with the
    same key and layout option `uirevision` keeps the zoom.
    """
    data = {
        "figure": figure.to_json(),
        "script": f"{base_path}{SCRIPT_PATH}",
        "zoom": zoom,
        "description": description,
    }
    state = FIGURE(key=key, data=data, height=figure.layout.height, on_clicked_change=lambda: None)
    clicked: str | None = state["clicked"]
    return clicked


def serve_script(_request: Request) -> Response:
    """Serve Plotly as a JavaScript module. Every browser that supports modules accepts gzip."""
    headers = {"Content-Encoding": "gzip", "Cache-Control": "max-age=31536000, immutable"}
    return Response(_compressed_script(), media_type="text/javascript", headers=headers)


@cache
def _compressed_script() -> bytes:
    return gzip.compress(f"{get_plotlyjs()}\nexport default window.Plotly\n".encode())
