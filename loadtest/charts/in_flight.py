"""The elapsed time of orders in flight, compared with the limit."""

from collections.abc import Sequence
from typing import NamedTuple

import plotly.graph_objects as go

from db.database import Row
from loadtest.charts import plain_text
from loadtest.charts.palette import Palette, limit_line, set_layout

ROWS = 12
HEIGHT = 440
LIKELY, POSSIBLE = 0.5, 0.1
"""Probabilities of missing the limit from which an order has the error and the warning color."""


class _Risk(NamedTuple):
    name: str
    color: str
    pattern: str


_UNLIKELY_RISK = _Risk(f"misses its limit: below {100 * POSSIBLE:g} %", "info", "")
_POSSIBLE_RISK = _Risk(f"{100 * POSSIBLE:g} % to {100 * LIKELY:g} %", "warning", "\\")
_LIKELY_RISK = _Risk(f"above {100 * LIKELY:g} %", "error", "/")
_UNKNOWN_RISK = _Risk("unknown", "muted", ".")
_RISKS = (_UNLIKELY_RISK, _POSSIBLE_RISK, _LIKELY_RISK, _UNKNOWN_RISK)


def in_flight_chart(
    rows: Sequence[Row],
    probabilities: Sequence[float | None],
    palette: Palette,
    limit_seconds: float,
    order_url: str = "",
) -> go.Figure:
    """Return one bar per order. The height is constant, so that the page layout does not shift.

    `rows` come from `db.read_models.live_orders.orders_by_deadline`, closest to the deadline first;
    `probabilities` are those of missing the limit, None where it is unknown. With `order_url`, the order ids
    are links to it plus the id. The custom data of a bar is its order id.
    """
    shown = list(zip(rows, probabilities, strict=True))[:ROWS]
    figure = go.Figure()
    for risk in _RISKS:
        own = [(position, row, share) for position, (row, share) in enumerate(shown) if _risk(share) is risk]
        _draw(figure, palette, risk, own)
    end = max([limit_seconds, *(row["elapsed_ms"] / 1000 for row, _ in shown)])
    tick = 3 if end <= 30 else 10 * max(1, round(end / 100))
    _draw_other_limits(figure, palette, [row for row, _ in shown], limit_seconds)
    # With a place in the plot, the legend would cover the bars after a change of the width.
    place = {"yref": "container", "y": 1, "yanchor": "top"}
    set_layout(
        figure,
        palette,
        height=HEIGHT,
        axes={
            "xaxis": {"range": [0, end * 1.05], "title": "seconds since acceptance", "dtick": tick},
            "yaxis": {
                "range": [ROWS - 0.5, -0.5],
                "tickvals": list(range(len(shown))),
                "ticktext": [_tick(row["order_id"], order_url, palette) for row, _ in shown],
                "showgrid": False,
            },
        },
        # The bars at the bottom are the shortest.
        marks=[limit_line(palette, limit_seconds, limit_seconds, label="bottom left")],
        zoom=False,
        legend=place | {"itemclick": False, "itemdoubleclick": False},
        barmode="overlay",
    )
    return figure


def _draw(
    figure: go.Figure, palette: Palette, risk: _Risk, own: Sequence[tuple[int, Row, float | None]]
) -> None:
    # Plotly leaves a trace without a point out of the legend, which would then change at each refresh.
    figure.add_bar(
        x=[row["elapsed_ms"] / 1000 for _, row, _ in own] or [None],
        y=[position for position, _, _ in own] or [0],
        customdata=[row["order_id"] for _, row, _ in own],
        name=risk.name,
        orientation="h",
        width=0.8,
        marker={
            "color": getattr(palette, risk.color),
            "pattern": {
                "shape": risk.pattern,
                "fillmode": "overlay",
                "fgcolor": palette.on_mark,
                "fgopacity": 0.2,
            },
        },
        text=[_label(row, share) for _, row, share in own],
        # Plotly puts the text beside bars that are too short for it.
        textposition="auto",
        insidetextanchor="start",
        insidetextfont={"color": palette.on_mark},
        outsidetextfont={"color": palette.text},
        textangle=0,
        cliponaxis=False,
        hovertemplate="%{customdata}<br>%{text}<br>%{x:.1f} s<extra></extra>",
    )


def _draw_other_limits(
    figure: go.Figure, palette: Palette, rows: Sequence[Row], limit_seconds: float
) -> None:
    """Mark the limit of each order whose load test has another one."""
    others = [
        (n, row["limit_ms"] / 1000) for n, row in enumerate(rows) if row["limit_ms"] != limit_seconds * 1000
    ]
    figure.add_scatter(
        x=[limit for _, limit in others],
        y=[n for n, _ in others],
        mode="markers",
        marker={"symbol": "line-ns", "size": 22, "line": {"color": palette.error, "width": 2}},
        hovertemplate="limit %{x:g} s<extra></extra>",
        showlegend=False,
    )


def _risk(probability: float | None) -> _Risk:
    if probability is None:
        return _UNKNOWN_RISK
    if probability > LIKELY:
        return _LIKELY_RISK
    return _POSSIBLE_RISK if probability >= POSSIBLE else _UNLIKELY_RISK


def _label(row: Row, probability: float | None) -> str:
    compensating = "compensating, " if row["abort_reason"] else ""
    attempt = f", attempt {row['attempt']}" if (row["attempt"] or 0) > 1 else ""
    share = "" if probability is None else f" · {percent(probability)}"
    return f"{compensating}{row['current_step'] or row['state']}{attempt}{share}"


def percent(probability: float) -> str:
    """Format an estimated probability, which is never exactly 0 or 1 before the limit has passed."""
    if probability == 1.0:
        return "late"
    return "<1 %" if probability < 0.01 else ">99 %" if probability > 0.99 else f"{100 * probability:.0f} %"


def _tick(order_id: str, order_url: str, palette: Palette) -> str:
    name = plain_text.chart(short_id(order_id))
    if not order_url:
        return name
    return f'<a href="{order_url}{order_id}" target="_self" style="color:{palette.info}">{name}</a>'


def short_id(order_id: str, length: int = 22) -> str:
    """Return the end of a long order id, which is what differs between orders of a run."""
    return order_id if len(order_id) <= length else "…" + order_id[-length + 1 :]
