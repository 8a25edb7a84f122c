"""Where the time of the slowest orders went: parts that sum exactly to the whole."""

import plotly.graph_objects as go

from dashboard.charts.in_flight import short
from dashboard.charts.palette import Palette, framed, limit_line
from db.database import Row

PARTS = ("receive", "validate", "review", "charge", "prepare", "dispatch", "compensate", "waiting")
PATTERNS = {"review": ".", "prepare": "\\", "compensate": "x", "waiting": "/"}
"""For parts whose colour somebody takes for that of their neighbour."""

LANE_HEIGHT = 26


def split(rows: list[Row], palette: Palette, limit_ms: int) -> go.Figure:
    """One stacked bar an order, the slowest on top. Rows as of `db.read_models.latency.slowest`."""
    figure = go.Figure()
    lanes = list(range(len(rows)))
    for part in PARTS:
        times = [row[f"{part}_ms"] / 1000 for row in rows]
        if not any(times):
            continue
        figure.add_bar(
            x=times,
            y=lanes,
            orientation="h",
            name=part,
            marker={
                "color": palette.of_part(part),
                "pattern": {
                    "shape": PATTERNS.get(part, ""),
                    "fillmode": "overlay",
                    "fgcolor": palette.on_mark,
                    "fgopacity": 0.35,
                    "size": 7,
                    "solidity": 0.2,
                },
            },
            customdata=[f"{row['order_id']} ({row['outcome']}, {row['completion_ms']:,} ms)" for row in rows],
            hovertemplate="%{customdata}<br>" + part + " %{x:.3f} s<extra></extra>",
        )
    framed(figure, palette, height=120 + LANE_HEIGHT * max(len(rows), 3))
    figure.update_layout(barmode="stack", legend={"traceorder": "normal"})
    figure.update_xaxes(title="seconds since acceptance")
    figure.update_yaxes(
        tickvals=lanes,
        ticktext=[short(row["order_id"]) for row in rows],
        range=[len(rows) - 0.4, -0.6],
        showgrid=False,
    )
    limit_line(figure, palette, limit_ms / 1000, limit_ms / 1000)
    return figure


def parts_of(row: Row) -> dict[str, int]:
    """The parts of an order's time in ms; their sum is its `completion_ms`."""
    return {part: row[f"{part}_ms"] for part in PARTS}
