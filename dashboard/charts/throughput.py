"""Orders started and finished a second."""

import plotly.graph_objects as go

from dashboard.charts.palette import Palette, framed, hold_still
from db.database import Row

HEIGHT = 200


def pace(rows: list[Row], palette: Palette) -> go.Figure:
    """Two lines over the last seconds. Rows as of `db.read_models.live_orders.pace`."""
    at = [row["at"] for row in rows]
    figure = go.Figure()
    for column, colour, dash in (("started", palette.calm, "solid"), ("finished", palette.good, "dot")):
        figure.add_scatter(
            x=at,
            y=[row[column] for row in rows],
            name=f"{column} a second",
            mode="lines",
            line={"color": colour, "width": 2, "dash": dash, "shape": "hv"},
            hovertemplate="%{x|%H:%M:%S}  %{y}<extra></extra>",
        )
    framed(figure, palette, height=HEIGHT)
    highest = max((max(row["started"], row["finished"]) for row in rows), default=0)
    figure.update_yaxes(range=[0, max(4, highest * 1.15)], fixedrange=True)
    figure.update_xaxes(showgrid=False)
    hold_still(figure)
    return figure


def per_second(rows: list[Row], column: str, seconds: int = 10) -> float:
    """The mean over the last `seconds` rows; 0 without any."""
    recent = [row[column] for row in rows[-seconds:]]
    return sum(recent) / len(recent) if recent else 0.0
