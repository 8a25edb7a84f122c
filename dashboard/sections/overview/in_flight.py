"""The orders in flight against their limit, and the throughput with fault profiles and disturbances."""

from collections.abc import Sequence
from datetime import timedelta
from typing import NamedTuple

import streamlit as st

from dashboard import page_elements as page
from dashboard.data import clients
from dashboard.data.cached import CHART_SECONDS, cached
from dashboard.sections.overview.status import THROUGHPUT_SECONDS, in_flight, throughput
from dashboard.view_models.miss_probability import MissProbability, reference_orders
from db.database import Row
from db.read_models import latency, live_orders, step_times
from db.read_models.latency import Disturbance, FaultSpan
from db.read_only_database import ReadOnlyDatabase
from loadtest.charts.in_flight import ROWS, in_flight_chart
from loadtest.charts.throughput import throughput_chart


class RecentEvents(NamedTuple):
    faults: list[FaultSpan]
    disturbances: list[Disturbance]


def recent_events(reader: ReadOnlyDatabase, seconds: int) -> RecentEvents:
    """Return the fault profiles and disturbances of the last seconds."""
    now = clients.now()
    since = now - timedelta(seconds=seconds)
    return RecentEvents(latency.fault_spans(reader, since, now), latency.disturbances(reader, since, now))


def miss_probability(reader: ReadOnlyDatabase, limit_seconds: float) -> MissProbability:
    """Return the estimate from the newest finished orders that have the active fault profile."""
    before = clients.now() - timedelta(seconds=limit_seconds)
    rows = cached(step_times.newest, CHART_SECONDS)()
    return MissProbability.of(reference_orders(rows, latency.active_faults(reader), before))


def show() -> None:
    """Draw both charts, and an empty state before the first order."""
    rows, open_orders = cached(live_orders.orders_by_deadline)(ROWS), in_flight()
    limit_seconds = clients.settings().order_deadline_seconds
    st.subheader("In flight", anchor=False)
    orders = open_orders.orders
    count = f"{ROWS} of {orders:,} orders" if orders > ROWS else f"{orders} order{'s' if orders != 1 else ''}"
    compensating = f" ({open_orders.compensating:,} compensating)" if open_orders.compensating else ""
    st.caption(
        f"{count} in flight{compensating}, closest to the deadline first, "
        "with the probability of missing the limit. Click on a bar to open the order."
    )
    _in_flight_chart(
        rows, limit_seconds, f"{orders} orders in flight with their elapsed time against the limit"
    )
    _throughput_chart()
    if not rows and cached(live_orders.last_finished_at, 30)() is None:
        page.empty_state(
            "No orders yet", "Start one on the Orders page, or a load test on the Load tests page."
        )


def _throughput_chart() -> None:
    limit_seconds = clients.settings().order_deadline_seconds
    events = cached(recent_events)(THROUGHPUT_SECONDS)
    page.chart(
        throughput_chart(
            throughput(THROUGHPUT_SECONDS),
            page.palette(),
            limit_ms=round(limit_seconds * 1000),
            faults=events.faults,
            disturbances=events.disturbances,
        ),
        "throughput",
        "Orders started and finished and starts rejected per second, with fault profiles and disturbances",
    )


def _in_flight_chart(rows: Sequence[Row], limit_seconds: float, description: str) -> None:
    estimate = cached(miss_probability, CHART_SECONDS)(limit_seconds)
    figure = in_flight_chart(
        rows,
        [estimate.of_order(row) for row in rows],
        page.palette(),
        limit_seconds,
        f"{clients.settings().dashboard_base_path}/orders?order=",
    )
    selected = page.clickable_chart(figure, "in-flight", description)
    if selected:
        page.switch_page("orders", order=str(selected))
