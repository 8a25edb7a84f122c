"""Time breakdown of the slowest orders by step; the segments sum exactly to the completion time."""

import plotly.graph_objects as go

from db.database import Row
from loadtest.charts.in_flight import short_id
from loadtest.charts.palette import Palette, limit_line, set_layout

SEGMENTS = ("receive", "validate", "review", "charge", "prepare", "dispatch", "compensate", "waiting")
PATTERNS = {"review": ".", "prepare": "\\", "dispatch": "-", "compensate": "x", "waiting": "/"}
"""Patterns for segments whose color is too close to the adjacent one for color-blind users."""

ROW_HEIGHT = 26


def time_breakdown(rows: list[Row], palette: Palette, limit_ms: int) -> go.Figure:
    """Return one stacked bar per order. `rows` come from `db.read_models.latency.slowest`."""
    figure = go.Figure()
    positions = list(range(len(rows)))
    for segment in SEGMENTS:
        times = [row[f"{segment}_ms"] / 1000 for row in rows]
        if not any(times):
            continue
        figure.add_bar(
            x=times,
            y=positions,
            orientation="h",
            name=segment,
            marker={
                "color": palette.of_segment(segment),
                # The lightest segments would hardly contrast with the page.
                "line": {"color": palette.muted, "width": 1},
                "pattern": {
                    "shape": PATTERNS.get(segment, ""),
                    "fillmode": "overlay",
                    "fgcolor": palette.on_mark,
                    "fgopacity": 0.35,
                    "size": 7,
                    "solidity": 0.2,
                },
            },
            # The dashboard opens this order after a click on the bar.
            customdata=[row["order_id"] for row in rows],
            hovertext=[f"{row['order_id']} ({row['outcome']}, {row['completion_ms']:,} ms)" for row in rows],
            hovertemplate="%{hovertext}<br>" + segment + " %{x:.3f} s<extra></extra>",
        )
    set_layout(
        figure,
        palette,
        height=120 + ROW_HEIGHT * max(len(rows), 3),
        axes={
            "xaxis": {"title": "seconds since acceptance"},
            "yaxis": {
                "tickvals": positions,
                "ticktext": [short_id(row["order_id"]) for row in rows],
                "range": [len(rows) - 0.4, -0.6],
                "showgrid": False,
            },
        },
        # The slowest orders have bars at the limit.
        marks=[limit_line(palette, limit_ms / 1000, limit_ms / 1000, label="top")],
        legend={"traceorder": "normal"},
        barmode="stack",
    )
    return figure
