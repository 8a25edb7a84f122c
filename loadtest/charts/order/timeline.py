"""The timeline of one order."""

import plotly.graph_objects as go

from db.domain import AttemptOutcome, Step
from db.read_models.order_search import OrderDetails
from loadtest.charts import plain_text
from loadtest.charts.order.bars import REVIEW, RUNNING, WAITING, Bar, Mark, bars, marks
from loadtest.charts.palette import Palette, limit_line, set_layout

ROW_HEIGHT = 34
REQUESTS = "requests"

_ROWS = (*(step.value for step in Step if step is not Step.FINISH), WAITING, REQUESTS)
_PATTERNS = {"error": "x", "timeout": "/", "declined": ".", "lost": "-", RUNNING: "|"}


def timeline(details: OrderDetails, palette: Palette) -> go.Figure:
    """Return a bar for each attempt, wait and review, a mark for each request, and the limit.

    Color and pattern show the outcome of an attempt.
    """
    shown, requests = bars(details), marks(details)
    present = {bar.row for bar in shown} | ({REQUESTS} if requests else set())
    rows = [row for row in _ROWS if row in present]
    figure = go.Figure()
    for kind in dict.fromkeys(bar.kind for bar in shown):
        _draw_bars(figure, palette, kind, [bar for bar in shown if bar.kind == kind])
    if requests:
        _draw_requests(figure, palette, requests)
    order = details.order
    limit = (order["limit_at"] - order["accepted_at"]).total_seconds()
    end = max([limit, *(bar.end_seconds for bar in shown)])
    set_layout(
        figure,
        palette,
        height=110 + ROW_HEIGHT * max(len(rows), 3),
        axes={
            "xaxis": {"title": "seconds since acceptance", "range": [-0.1, end * 1.06]},
            "yaxis": {
                "categoryorder": "array",
                "categoryarray": rows[::-1],
                "range": [-0.6, len(rows) - 0.4],
            },
        },
        marks=[limit_line(palette, limit, limit)],
        zoom=order["finished_at"] is not None,
        barmode="overlay",
    )
    return figure


def _draw_bars(figure: go.Figure, palette: Palette, kind: str, shown: list[Bar]) -> None:
    color = _color(kind, palette)
    figure.add_bar(
        x=[bar.end_seconds - bar.start_seconds for bar in shown],
        base=[bar.start_seconds for bar in shown],
        y=[bar.row for bar in shown],
        orientation="h",
        name=kind,
        width=0.62,
        # Without an outline, an attempt of half a millisecond would be invisible.
        marker={"color": color, "line": {"color": color, "width": 1.5}},
        marker_pattern_shape=_PATTERNS.get(kind, ""),
        customdata=[_hover_text(bar) for bar in shown],
        hovertemplate="%{customdata}<extra></extra>",
    )


def _draw_requests(figure: go.Figure, palette: Palette, requests: list[Mark]) -> None:
    figure.add_scatter(
        x=[mark.at_seconds for mark in requests],
        y=[REQUESTS] * len(requests),
        mode="markers+text",
        name="request",
        text=[f"{mark.name}{'' if mark.is_accepted else ', too late'}" for mark in requests],
        textposition="middle right",
        marker={
            "symbol": ["diamond" if mark.is_accepted else "x" for mark in requests],
            "size": 12,
            "color": [palette.accent if mark.is_accepted else palette.error for mark in requests],
        },
        customdata=[plain_text.chart(f"{mark.at_seconds:.3f} s, {mark.detail}") for mark in requests],
        hovertemplate="%{customdata}<extra></extra>",
    )


def _color(kind: str, palette: Palette) -> str:
    others = {REVIEW: palette.accent, WAITING: palette.muted, RUNNING: palette.info}
    return others[kind] if kind in others else palette.of_attempt(AttemptOutcome(kind))


def _hover_text(bar: Bar) -> str:
    title = f"{bar.row}, {bar.kind}" if bar.row != bar.kind else bar.row
    if bar.attempt is not None:
        title = f"{bar.row}, attempt {bar.attempt}: {bar.kind}"
    lines = [
        title,
        f"{bar.start_seconds:.3f} s to {bar.end_seconds:.3f} s",
        f"{(bar.end_seconds - bar.start_seconds) * 1000:,.1f} ms",
    ]
    lines += [plain_text.chart(text) for text in (bar.error, bar.worker or "") if text]
    return "<br>".join(lines)
