"""Distribution of completion times: histogram, cumulative distribution (CDF), and time by percentile."""

import math
from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from db.domain import TERMINAL_STATES
from db.read_models.latency import Bucket
from db.read_models.latency_buckets import edge_below
from db.read_models.percentiles import min_count
from loadtest.charts.axes import log_seconds, log_ticks
from loadtest.charts.palette import Palette, horizontal_limit_line, limit_line, set_layout, vertical_line

HEIGHT = 340
PERCENTILE_TICKS = (0.5, 0.9, 0.99, 0.999, 0.9999, 0.99999)

Curve = Sequence[tuple[int, float]]
"""Pairs of (ms, share of orders that took at most that), ascending."""


def histogram(buckets: Sequence[Bucket], palette: Palette, limit_ms: int, longest_ms: int) -> go.Figure:
    """Return a bar chart of orders by completion time, stacked by outcome. 15 s is a bucket edge."""
    figure = go.Figure()
    for outcome in TERMINAL_STATES:
        outcome_buckets = [bucket for bucket in buckets if bucket.outcomes.get(outcome)]
        if not outcome_buckets:
            continue
        edges = [
            (max(edge_below(bucket.upto_ms), 1), min(bucket.upto_ms, max(longest_ms, 2) * 2))
            for bucket in outcome_buckets
        ]
        spans = [(log_seconds(low), log_seconds(high)) for low, high in edges]
        figure.add_bar(
            x=[(low + high) / 2 for low, high in spans],
            width=[high - low for low, high in spans],
            y=[bucket.outcomes[outcome] for bucket in outcome_buckets],
            name=outcome.value,
            marker={"color": palette.of_outcome(outcome), "line": {"width": 0}},
            customdata=[f"{low / 1000:.3f} s to {high / 1000:.3f} s" for low, high in edges],
            hovertemplate="%{customdata}: %{y:,} " + outcome.value + "<extra></extra>",
        )
    low_ms = edge_below(buckets[0].upto_ms) if buckets else 1000
    set_layout(
        figure,
        palette,
        height=HEIGHT,
        axes={
            "xaxis": {"title": "completion time", **log_ticks(low_ms, max(longest_ms, limit_ms))},
            "yaxis": {"title": "orders"},
        },
        marks=[limit_line(palette, log_seconds(limit_ms), limit_ms / 1000)],
        barmode="stack",
        bargap=0,
    )
    return figure


def by_percentile(curve: Curve, orders: int, palette: Palette, limit_ms: int, target: float) -> go.Figure:
    """Return the completion time at each percentile, on an axis of nines: 90, 99, 99.9 at equal distances.

    `curve` is the CDF of `orders` orders. The SLO is met if the curve is below the limit at `target`.
    """
    figure = go.Figure()
    # A percentile above that of the last order but one is the longest time.
    last = 1 - 1 / max(orders, 2)
    points = [(min(share, last), ms) for ms, share in curve]
    figure.add_scatter(
        x=[_nines(share) for share, _ in points],
        y=[ms / 1000 for _, ms in points],
        mode="lines",
        line={"color": palette.info, "width": 2.5, "shape": "vh"},
        customdata=[100 * share for share, _ in points],
        hovertemplate="p%{customdata:.6~g}: %{y:.3f} s<extra></extra>",
    )
    shown = [share for share in PERCENTILE_TICKS if min_count(share) <= orders]
    target_line = vertical_line(
        _nines(target),
        f"target {100 * target:g} %",
        color=palette.muted,
        text_color=palette.text,
        dash="dot",
        label="bottom right",
    )
    set_layout(
        figure,
        palette,
        height=HEIGHT,
        axes={
            "xaxis": {
                "title": "percentile",
                "tickvals": [_nines(share) for share in shown],
                "ticktext": [f"{100 * share:g}" for share in shown],
                # Not `range`: a refresh that changes it would reset the user's zoom.
                "autorangeoptions": {"minallowed": 0, "maxallowed": max(_nines(last), _nines(0.9))},
            },
            "yaxis": {"title": "completion, s", "rangemode": "tozero"},
        },
        marks=[target_line, horizontal_limit_line(palette, limit_ms / 1000, limit_ms / 1000)],
    )
    return figure


def _nines(share: float) -> float:
    """Return the coordinate of a percentile on an axis of nines: 1 for 90 %, 2 for 99 %."""
    return -math.log10(1 - share)


def cumulative(curves: Mapping[str, Curve], palette: Palette, limit_ms: int) -> go.Figure:
    """Return the CDF of completion times with one named curve per data set, at most two."""
    figure = go.Figure()
    styles = ((palette.info, "solid"), (palette.warning, "dash"))
    for (name, curve), (color, dash) in zip(curves.items(), styles, strict=False):
        figure.add_scatter(
            x=[log_seconds(ms) for ms, _ in curve],
            y=[100 * share for _, share in curve],
            name=name,
            mode="lines",
            line={"color": color, "width": 2.5, "dash": dash, "shape": "hv"},
            customdata=[ms / 1000 for ms, _ in curve],
            hovertemplate="%{y:.2f} % within %{customdata:.3f} s<extra></extra>",
        )
    starts = [curve[0][0] for curve in curves.values() if curve] or [1000]
    ends = [curve[-1][0] for curve in curves.values() if curve] or [1000]
    set_layout(
        figure,
        palette,
        height=HEIGHT,
        axes={
            "xaxis": {"title": "completion time", **log_ticks(min(starts), max(*ends, limit_ms))},
            "yaxis": {"title": "share of orders, %", "range": [0, 101]},
        },
        marks=[limit_line(palette, log_seconds(limit_ms), limit_ms / 1000)],
        showlegend=len(curves) > 1,
    )
    return figure
