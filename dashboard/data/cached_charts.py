"""The figures of the latency page, kept as long as the readings they are made of.

Making them takes longer than reading what they show; a page that is shown again takes them as they are.
"""

import plotly.graph_objects as go
import streamlit as st

from dashboard.charts import distribution, over_time, time_breakdown
from dashboard.charts.palette import palette_of
from dashboard.data import chart_data as readings
from db.read_models.latency import Plan

SLOWEST = 12

# Resources are handed out without a copy; nobody changes a figure once it is made.
_kept = st.cache_resource(ttl=readings.KEPT_SECONDS, max_entries=100, show_spinner=False)


@_kept
def histogram(how: Plan, theme: str | None, limit_ms: int) -> go.Figure:
    longest_ms = readings.summary(how).times_ms[1.0]
    return distribution.histogram(readings.buckets(how), palette_of(theme), limit_ms, longest_ms)


@_kept
def ecdf(how: Plan, theme: str | None, limit_ms: int) -> go.Figure:
    return distribution.ecdf({"completion": readings.summary(how).ecdf}, palette_of(theme), limit_ms)


@_kept
def percentiles(how: Plan, theme: str | None, limit_ms: int) -> go.Figure:
    slices, _ = readings.over_time(how)
    faults, disturbances = readings.surroundings(how)
    return over_time.percentiles(slices, how, palette_of(theme), limit_ms, faults, disturbances)


@_kept
def heatmap(how: Plan, theme: str | None, limit_ms: int) -> go.Figure:
    _, cells = readings.over_time(how)
    faults, disturbances = readings.surroundings(how)
    return over_time.heatmap(cells, how, palette_of(theme), limit_ms, faults, disturbances)


@_kept
def slowest(how: Plan, theme: str | None, limit_ms: int) -> go.Figure:
    return time_breakdown.split(readings.slowest(how, SLOWEST), palette_of(theme), limit_ms)


def forget() -> None:
    """The next figure is made of what the books say then."""
    readings.forget()
    for figure in (histogram, ecdf, percentiles, heatmap, slowest):
        figure.clear()
