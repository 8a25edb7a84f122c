"""Readings of the chart pages, kept for a little while and shared by all viewers."""

import streamlit as st

from dashboard import sources
from db import charts
from db.charts import Bucket, Cell, Disturbance, FaultSpan, Plan, Selection, Slice, Summary
from db.pool import Row

KEPT_SECONDS = 10.0

_kept = st.cache_data(ttl=KEPT_SECONDS, max_entries=100, show_spinner=False)


@_kept
def plan(chosen: Selection) -> Plan | None:
    return charts.plan(sources.reader(), chosen)


@_kept
def summary(how: Plan) -> Summary:
    return charts.summary(sources.reader(), how)


@_kept
def buckets(how: Plan) -> list[Bucket]:
    return charts.buckets(sources.reader(), how)


@_kept
def over_time(how: Plan) -> tuple[list[Slice], list[Cell]]:
    return charts.over_time(sources.reader(), how)


@_kept
def slowest(how: Plan, limit: int) -> list[Row]:
    return charts.slowest(sources.reader(), how, buckets(how), limit)


@_kept
def surroundings(how: Plan) -> tuple[list[FaultSpan], list[Disturbance]]:
    """The faults in force and the disturbances while a selection's orders were accepted."""
    reader = sources.reader()
    return (
        charts.fault_spans(reader, how.since, how.until),
        charts.disturbances(reader, how.since, how.until),
    )


@_kept
def run_names() -> list[Row]:
    return charts.run_names(sources.reader())


@_kept
def fault_profiles() -> list[str]:
    return charts.fault_profiles(sources.reader())


def forget() -> None:
    """The next reading asks the books again."""
    for reading in (plan, summary, buckets, over_time, slowest, surroundings, run_names, fault_profiles):
        reading.clear()
