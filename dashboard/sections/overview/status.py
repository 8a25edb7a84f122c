"""The SLO banner, and the most important metrics with their course over the time window."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import streamlit as st

from dashboard import page_elements as page
from dashboard.data import clients
from dashboard.data.cached import cached
from dashboard.sections import slo_banner
from dashboard.view_models.slo_status import SLO_TARGET
from db.read_models import live_orders
from db.read_models.live_orders import OutcomeSlice
from db.read_models.percentiles import min_count
from loadtest.charts.sparkline import Style, sparkline
from loadtest.charts.throughput import in_flight_history, mean_rate

THROUGHPUT_SECONDS = 120
SLICES = 10
"""Few, so that a slice has enough orders for a p99."""

in_flight = cached(live_orders.in_flight)
throughput = cached(live_orders.throughput)


class Tile(NamedTuple):
    label: str
    value: str
    below: str
    course: Sequence[float]
    help: str = ""
    style: Style = "area"


def show(window_seconds: int) -> None:
    """Draw the banner, and a tile with a sparkline for each metric."""
    open_orders = in_flight()
    recent = cached(live_orders.recent_outcomes)(window_seconds)
    orders, late = recent.finished + open_orders.overdue, recent.late + open_orders.overdue
    slo_banner.show(orders, late, SLO_TARGET)
    slices = cached(live_orders.outcomes_over_time)(window_seconds, SLICES)
    rates = throughput(THROUGHPUT_SECONDS)
    rejected = mean_rate(rates, "rejected")
    tiles = [
        Tile(
            "Throughput",
            f"{mean_rate(rates, 'finished'):.1f} / s",
            # The tile has room for one rate; the chart of the throughput has all of them.
            f"{rejected:.1f} / s rejected" if rejected else f"{mean_rate(rates, 'started'):.1f} / s started",
            [row["finished"] for row in rates],
            "Orders finished per second, mean of the last 10 s. A start is rejected with status 429 when the "
            "order would miss its limit.",
        ),
        Tile(
            "In flight",
            f"{open_orders.orders:,}",
            f"{open_orders.overdue:,} overdue",
            in_flight_history(rates, open_orders.orders),
            "Orders without an outcome; overdue orders are past their limit",
        ),
        Tile(
            "Late",
            f"{late:,}",
            f"{100 * late / orders:.2f} % of {orders:,}" if orders else "no orders",
            [each.late for each in slices],
            "Finished after their limit in the time window, or overdue",
            "bar",
        ),
        _percentile("p50", 0.5, recent.finished, recent.p50_ms, slices, lambda each: each.p50_ms),
        _percentile("p99", 0.99, recent.finished, recent.p99_ms, slices, lambda each: each.p99_ms),
        Tile("Longest", page.seconds(recent.max_ms), _of_limit(recent.max_ms), []),
    ]
    with st.grid(6, min_column_width=150):
        for tile in tiles:
            _show_tile(tile)


def _show_tile(tile: Tile) -> None:
    with st.container(border=True, gap="xsmall", key=f"tile-{tile.label}"):
        st.metric(
            tile.label,
            tile.value,
            tile.below,
            delta_color="off",
            delta_arrow="off",
            help=tile.help or None,
        )
        # Always, so that a refresh does not change the height.
        st.html(sparkline(tile.course, page.palette().info, f"Course of {tile.label}", tile.style))


def _percentile(
    name: str,
    share: float,
    orders: int,
    ms: int | None,
    slices: Sequence[OutcomeSlice],
    time_of: Callable[[OutcomeSlice], int | None],
) -> Tile:
    """Return the tile of a percentile, and its course over the slices that have enough orders."""
    needed = min_count(share)
    if orders < needed:
        return Tile(name, "–", f"needs {needed} orders", [])
    times = [time_of(each) for each in slices if each.finished >= needed]
    course = [ms / 1000 for ms in times if ms is not None]
    return Tile(name, page.seconds(ms), _of_limit(ms), course if len(course) > 1 else [])


def _of_limit(ms: int | None) -> str:
    limit = clients.settings().order_deadline_seconds
    return "no orders" if ms is None else f"{ms / 10 / limit:.0f} % of {limit:g} s"
