"""The orders in flight on their way to the limit."""

import plotly.graph_objects as go

from dashboard.charts.palette import Palette, framed, hold_still, limit_line
from db.database import Row

LANES = 12
HEIGHT = 440
IN_DANGER = 0.8
"""The share of the limit after which an order is in danger."""

WATCHED = 0.5


def race(rows: list[Row], palette: Palette, limit_seconds: float) -> go.Figure:
    """One lane an order, the first row on top; there are always as many lanes, so nothing jumps.

    Rows as of `db.read_models.live_orders.race`, the nearest to their deadline first.
    """
    shown = rows[:LANES]
    lanes = list(range(len(shown)))
    elapsed = [row["elapsed_ms"] / 1000 for row in shown]
    figure = go.Figure(
        go.Bar(
            x=elapsed,
            y=lanes,
            orientation="h",
            marker={
                "color": [_colour(row, palette) for row in shown],
                "pattern": {"shape": ["/" if _danger(row) > IN_DANGER else "" for row in shown]},
            },
            text=[_label(row) for row in shown],
            # Beside the bar where it is too short to hold its text.
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
    framed(figure, palette, height=HEIGHT)
    furthest = max([limit_seconds, *elapsed])
    figure.update_xaxes(range=[0, furthest * 1.05], title="seconds since acceptance", dtick=_tick(furthest))
    figure.update_yaxes(
        range=[LANES - 0.5, -0.5],
        tickvals=lanes,
        ticktext=[short(row["order_id"]) for row in shown],
        showgrid=False,
        fixedrange=True,
    )
    limit_line(figure, palette, limit_seconds, limit_seconds)
    figure.update_layout(showlegend=False)
    hold_still(figure)
    return figure


def _danger(row: Row) -> float:
    return float(row["elapsed_ms"] / row["limit_ms"])


def _colour(row: Row, palette: Palette) -> str:
    share = _danger(row)
    if share > IN_DANGER:
        return palette.bad
    return palette.warn if share > WATCHED else palette.calm


def _label(row: Row) -> str:
    step = row["current_step"] or row["state"]
    tries = f", attempt {row['attempt']}" if (row["attempt"] or 0) > 1 else ""
    undoing = "undoing, " if row["abort_reason"] else ""
    return f"{undoing}{step}{tries}"


def _tick(furthest: float) -> float:
    return 3 if furthest <= 30 else 10 * max(1, round(furthest / 100))


def short(order_id: str, length: int = 22) -> str:
    """An order id that fits beside a chart: its end tells orders of a run apart."""
    return order_id if len(order_id) <= length else "…" + order_id[-length + 1 :]
