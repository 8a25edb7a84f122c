"""The charts of the latency page."""

from functools import partial

import plotly.graph_objects as go
import streamlit as st

from dashboard.data import clients
from dashboard.data.cached import CHART_SECONDS, cached
from dashboard.first_screen import draw_later
from dashboard.page_elements import chart, clickable_chart, page_link, switch_page
from db.read_models import latency
from db.read_models.latency import Plan, Slo, Summary
from loadtest.charts import axes, distribution, over_time, time_breakdown
from loadtest.charts.in_flight import short_id
from loadtest.charts.palette import palette_of

SLOWEST_ORDERS = 12

# About the height of the charts below the first screen.
PLACEHOLDER_HEIGHT_PX = 1_300

buckets = cached(latency.buckets, CHART_SECONDS)
cache_figures = st.cache_resource(ttl=CHART_SECONDS, max_entries=20, show_spinner=False)
"""Building a figure takes longer than reading its data."""


def show(plan: Plan, summary: Summary, slo: Slo) -> None:
    """Draw all charts of a selection that has orders."""
    histogram, by_percentile = distributions(plan, st.context.theme.type, slo)
    left, right = st.columns(2, gap="medium")
    with left:
        _draw("Histogram", "histogram", histogram, "Orders by completion time and outcome")
    with right:
        _draw("Time by percentile", "by-percentile", by_percentile, "Completion time at each percentile")
    draw_later("later-latency-charts", PLACEHOLDER_HEIGHT_PX, partial(_show_later_charts, plan, summary, slo))


def clear() -> None:
    """Delete the cached figures."""
    distributions.clear()
    later_charts.clear()


def _show_later_charts(plan: Plan, summary: Summary, slo: Slo) -> None:
    percentiles, heatmap, breakdown, slowest = later_charts(plan, st.context.theme.type, slo)
    _draw("Percentiles over time", "percentiles", percentiles, "Percentiles of completion time")
    _draw("Latency heatmap", "heatmap", heatmap, "Orders by time of acceptance and completion time")
    st.subheader(f"Time breakdown of the {min(SLOWEST_ORDERS, summary.orders)} slowest orders", anchor=False)
    st.caption("Click on a bar, or on an order id below, to open the order.")
    description = "Completion time of the slowest orders, divided by step"
    if (clicked := clickable_chart(breakdown, "time-breakdown", description)) is not None:
        switch_page("orders", order=clicked)
    with st.container(horizontal=True, gap="xsmall"):
        for order_id in slowest:
            page_link("orders", short_id(order_id), order=order_id)


@cache_figures
def distributions(plan: Plan, theme: str | None, slo: Slo) -> tuple[go.Figure, go.Figure]:
    """Return the histogram, and the time by percentile."""
    palette, limit_ms = palette_of(theme), round(slo.limit_seconds * 1000)
    summary = cached(latency.summary, CHART_SECONDS)(plan)
    figures = (
        distribution.histogram(buckets(plan), palette, limit_ms, summary.times_ms[1.0]),
        distribution.by_percentile(summary.ecdf, summary.orders, palette, limit_ms, slo.target),
    )
    _keep_zoom(figures, plan)
    return figures


@cache_figures
def later_charts(
    plan: Plan, theme: str | None, slo: Slo
) -> tuple[go.Figure, go.Figure, go.Figure, list[str]]:
    """Return the percentiles over time, the heatmap, and the slowest orders: their time breakdown and ids."""
    database, palette, limit_ms = clients.database(), palette_of(theme), round(slo.limit_seconds * 1000)
    slices, cells = latency.over_time(database, plan)
    time_range = axes.TimeRange(
        plan,
        limit_ms,
        latency.fault_spans(database, plan.since, plan.until),
        latency.disturbances(database, plan.since, plan.until),
    )
    slowest = latency.slowest(database, plan, buckets(plan), SLOWEST_ORDERS)
    figures = (
        over_time.percentiles(slices, time_range, palette),
        over_time.heatmap(cells, time_range, palette),
        time_breakdown.time_breakdown(slowest, palette, limit_ms),
    )
    _keep_zoom(figures, plan)
    return *figures, [row["order_id"] for row in slowest]


def _keep_zoom(figures: tuple[go.Figure, ...], plan: Plan) -> None:
    """Keep the user's zoom at a refresh, and reset it when the filters change."""
    for figure in figures:
        figure.layout.uirevision = str(plan.selection)


def _draw(title: str, key: str, figure: go.Figure, alt: str) -> None:
    st.subheader(title, anchor=False)
    chart(figure, key, alt)
