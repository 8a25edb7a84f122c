"""Readings of the chart pages, kept for a little while and shared by all viewers."""

import streamlit as st

from dashboard.data import clients
from db.database import Row
from db.read_models import latency
from db.read_models.latency import Bucket, Cell, Disturbance, FaultSpan, Plan, Selection, Slice, Summary

KEPT_SECONDS = 10.0

_kept = st.cache_data(ttl=KEPT_SECONDS, max_entries=100, show_spinner=False)


@_kept
def plan(chosen: Selection) -> Plan | None:
    return latency.plan(clients.reader(), chosen)


@_kept
def summary(how: Plan) -> Summary:
    return latency.summary(clients.reader(), how)


@_kept
def buckets(how: Plan) -> list[Bucket]:
    return latency.buckets(clients.reader(), how)


@_kept
def over_time(how: Plan) -> tuple[list[Slice], list[Cell]]:
    return latency.over_time(clients.reader(), how)


@_kept
def slowest(how: Plan, limit: int) -> list[Row]:
    return latency.slowest(clients.reader(), how, buckets(how), limit)


@_kept
def surroundings(how: Plan) -> tuple[list[FaultSpan], list[Disturbance]]:
    """The faults in force and the disturbances while a selection's orders were accepted."""
    reader = clients.reader()
    return (
        latency.fault_spans(reader, how.since, how.until),
        latency.disturbances(reader, how.since, how.until),
    )


@_kept
def run_names() -> list[Row]:
    return latency.run_names(clients.reader())


@_kept
def fault_profiles() -> list[str]:
    return latency.fault_profiles(clients.reader())


def forget() -> None:
    """The next reading asks the books again."""
    for reading in (plan, summary, buckets, over_time, slowest, surroundings, run_names, fault_profiles):
        reading.clear()
