"""The charts of the latency page."""

import plotly.graph_objects as go
import streamlit as st

from dashboard.data import clients
from dashboard.data.cached import CHART_SECONDS, cached
from dashboard.page_elements import chart
from db.read_models import latency
from db.read_models.latency import Plan, Summary
from loadtest.charts import axes, distribution, over_time, time_breakdown
from loadtest.charts.palette import palette_of

SLOWEST = 12


def show(plan: Plan, summary: Summary, limit_ms: int) -> None:
    """Draw all charts of a selection that has orders."""
    histogram, cdf, percentiles, heatmap, breakdown = latency_charts(plan, st.context.theme.type, limit_ms)
    left, right = st.columns(2, gap="medium")
    with left:
        _draw("Histogram", "histogram", histogram, "Orders by completion time and outcome")
    with right:
        _draw("Cumulative distribution", "cdf", cdf, "Share of orders by completion time")
    _draw("Percentiles over time", "percentiles", percentiles, "Percentiles of completion time")
    _draw("Latency heatmap", "heatmap", heatmap, "Orders by time of acceptance and completion time")
    _draw(
        f"Time breakdown of the {min(SLOWEST, summary.orders)} slowest orders",
        "time-breakdown",
        breakdown,
        "Completion time of the slowest orders, divided by step",
    )


@st.cache_resource(ttl=CHART_SECONDS, max_entries=20, show_spinner=False)
def latency_charts(plan: Plan, theme: str | None, limit_ms: int) -> tuple[go.Figure, ...]:
    """Return all charts of a selection. The figures are cached: building them takes longer than reading."""
    database, palette = clients.database(), palette_of(theme)
    summary = cached(latency.summary, CHART_SECONDS)(plan)
    buckets = latency.buckets(database, plan)
    slices, cells = latency.over_time(database, plan)
    time_range = axes.TimeRange(
        plan,
        limit_ms,
        latency.fault_spans(database, plan.since, plan.until),
        latency.disturbances(database, plan.since, plan.until),
    )
    slowest = latency.slowest(database, plan, buckets, SLOWEST)
    return (
        distribution.histogram(buckets, palette, limit_ms, summary.times_ms[1.0]),
        distribution.cumulative({"completion": summary.ecdf}, palette, limit_ms),
        over_time.percentiles(slices, time_range, palette),
        over_time.heatmap(cells, time_range, palette),
        time_breakdown.time_breakdown(slowest, palette, limit_ms),
    )


def _draw(title: str, key: str, figure: go.Figure, alt: str) -> None:
    st.subheader(title, anchor=False)
    chart(figure, key, alt)
