"""The charts of the latency page."""

import plotly.graph_objects as go
import streamlit as st

from dashboard.data import clients
from dashboard.data.cached import CHART_SECONDS, cached
from dashboard.page_elements import chart, clickable_chart, page_link, switch_page
from db.read_models import latency
from db.read_models.latency import Plan, Slo, Summary
from loadtest.charts import axes, distribution, over_time, time_breakdown
from loadtest.charts.in_flight import short_id
from loadtest.charts.palette import palette_of

SLOWEST = 12


def show(plan: Plan, summary: Summary, slo: Slo) -> None:
    """Draw all charts of a selection that has orders."""
    (histogram, by_percentile, percentiles, heatmap, breakdown), slowest = latency_charts(
        plan, st.context.theme.type, slo
    )
    left, right = st.columns(2, gap="medium")
    with left:
        _draw("Histogram", "histogram", histogram, "Orders by completion time and outcome")
    with right:
        _draw("Time by percentile", "by-percentile", by_percentile, "Completion time at each percentile")
    _draw("Percentiles over time", "percentiles", percentiles, "Percentiles of completion time")
    _draw("Latency heatmap", "heatmap", heatmap, "Orders by time of acceptance and completion time")
    st.subheader(f"Time breakdown of the {min(SLOWEST, summary.orders)} slowest orders", anchor=False)
    st.caption("Click on a bar, or on an order id below, to open the order.")
    description = "Completion time of the slowest orders, divided by step"
    if (clicked := clickable_chart(breakdown, "time-breakdown", description)) is not None:
        switch_page("orders", order=clicked)
    with st.container(horizontal=True, gap="xsmall"):
        for order_id in slowest:
            page_link("orders", short_id(order_id), order=order_id)


@st.cache_resource(ttl=CHART_SECONDS, max_entries=20, show_spinner=False)
def latency_charts(plan: Plan, theme: str | None, slo: Slo) -> tuple[tuple[go.Figure, ...], list[str]]:
    """Return all charts of a selection, and the ids of its slowest orders.

    The figures are cached: building them takes longer than reading.
    """
    database, palette, limit_ms = clients.database(), palette_of(theme), round(slo.limit_seconds * 1000)
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
    figures = (
        distribution.histogram(buckets, palette, limit_ms, summary.times_ms[1.0]),
        distribution.by_percentile(summary.ecdf, summary.orders, palette, limit_ms, slo.target),
        over_time.percentiles(slices, time_range, palette),
        over_time.heatmap(cells, time_range, palette),
        time_breakdown.time_breakdown(slowest, palette, limit_ms),
    )
    for figure in figures:
        figure.update_layout(uirevision=str(plan.selection))
    return figures, [row["order_id"] for row in slowest]


def _draw(title: str, key: str, figure: go.Figure, alt: str) -> None:
    st.subheader(title, anchor=False)
    chart(figure, key, alt)
