"""Orders started and finished per second."""

import plotly.graph_objects as go

from db.database import Row
from loadtest.charts.palette import Palette, apply_layout, disable_zoom

HEIGHT = 200


def throughput_chart(rows: list[Row], palette: Palette) -> go.Figure:
    """Return a chart with a line for each rate. `rows` come from `db.read_models.live_orders.throughput`."""
    figure = go.Figure()
    for column, color, dash in (("started", palette.info, "solid"), ("finished", palette.success, "dot")):
        figure.add_scatter(
            x=[row["at"] for row in rows],
            y=[row[column] for row in rows],
            name=f"{column} per second",
            mode="lines",
            line={"color": color, "width": 2, "dash": dash, "shape": "hv"},
            hovertemplate="%{x|%H:%M:%S}  %{y}<extra></extra>",
        )
    apply_layout(figure, palette, height=HEIGHT)
    highest = max((max(row["started"], row["finished"]) for row in rows), default=0)
    figure.update_yaxes(range=[0, max(4, highest * 1.15)])
    figure.update_xaxes(showgrid=False)
    disable_zoom(figure)
    return figure


def mean_rate(rows: list[Row], column: str, seconds: int = 10) -> float:
    """Return the mean of a column over the last `seconds` rows, which are one second each; 0 without rows."""
    recent = [row[column] for row in rows[-seconds:]]
    return sum(recent) / len(recent) if recent else 0.0
