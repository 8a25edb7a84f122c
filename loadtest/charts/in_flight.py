"""The elapsed time of orders in flight, compared with the limit."""

import plotly.graph_objects as go

from db.database import Row
from loadtest.charts.palette import Palette, apply_layout, disable_zoom, limit_line

ROWS = 12
HEIGHT = 440
AT_RISK = 0.8
"""An order that has used more than this share of its limit has the error color and a pattern."""

WARNING = 0.5
"""An order that has used more than this share of its limit has the warning color."""


def in_flight_chart(rows: list[Row], palette: Palette, limit_seconds: float) -> go.Figure:
    """Return one bar per order. The height is constant, so that the page layout does not shift.

    `rows` come from `db.read_models.live_orders.orders_by_deadline`, closest to the deadline first.
    """
    shown = rows[:ROWS]
    positions = list(range(len(shown)))
    elapsed = [row["elapsed_ms"] / 1000 for row in shown]
    figure = go.Figure(
        go.Bar(
            x=elapsed,
            y=positions,
            orientation="h",
            marker={
                "color": [_color(row, palette) for row in shown],
                "pattern": {"shape": ["/" if _used_share(row) > AT_RISK else "" for row in shown]},
            },
            text=[_label(row) for row in shown],
            # Plotly puts the text beside bars that are too short for it.
            textposition="auto",
            insidetextanchor="start",
            insidetextfont={"color": palette.on_mark},
            outsidetextfont={"color": palette.text},
            textangle=0,
            cliponaxis=False,
            hovertemplate="%{text}<br>%{x:.1f} s<extra></extra>",
            width=0.8,
        )
    )
    apply_layout(figure, palette, height=HEIGHT)
    end = max([limit_seconds, *elapsed])
    tick = 3 if end <= 30 else 10 * max(1, round(end / 100))
    figure.update_xaxes(range=[0, end * 1.05], title="seconds since acceptance", dtick=tick)
    figure.update_yaxes(
        range=[ROWS - 0.5, -0.5],
        tickvals=positions,
        ticktext=[short_id(row["order_id"]) for row in shown],
        showgrid=False,
    )
    limit_line(figure, palette, limit_seconds, limit_seconds)
    figure.update_layout(showlegend=False)
    disable_zoom(figure)
    return figure


def _used_share(row: Row) -> float:
    return float(row["elapsed_ms"] / row["limit_ms"])


def _color(row: Row, palette: Palette) -> str:
    share = _used_share(row)
    if share > AT_RISK:
        return palette.error
    return palette.warning if share > WARNING else palette.info


def _label(row: Row) -> str:
    compensating = "compensating, " if row["abort_reason"] else ""
    attempt = f", attempt {row['attempt']}" if (row["attempt"] or 0) > 1 else ""
    return f"{compensating}{row['current_step'] or row['state']}{attempt}"


def short_id(order_id: str, length: int = 22) -> str:
    """Return the end of a long order id, which is what differs between orders of a run."""
    return order_id if len(order_id) <= length else "…" + order_id[-length + 1 :]
