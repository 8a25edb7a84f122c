"""The course of a load test on one time axis, and the orders of one second of it."""

from datetime import UTC, timedelta

import pandas as pd
import streamlit as st

from dashboard import page_elements as page
from dashboard.data import clients
from dashboard.data.cached import CHART_SECONDS, cached
from db.database import Row
from db.read_models import run_timeline
from db.read_models.percentiles import min_count
from db.read_models.run_timeline import RunTimeline
from loadtest.charts.run.time_axis import run_time_axis, seconds_per_point

LISTED_ORDERS = 200


def show(run_id: str, is_live: bool) -> None:
    default = clients.settings().order_deadline_seconds
    timeline = cached(run_timeline.run_timeline, CHART_SECONDS)(run_id, default)
    st.subheader("Course over time", anchor=False)
    if timeline is None or not timeline.seconds:
        page.empty_state("No orders yet", "The chart is drawn as soon as the run has sent an order.")
        return
    figure = run_time_axis(timeline, page.palette(), zoom=not is_live)
    clicked = page.clickable_chart(
        figure,
        "run-time-axis",
        "Load, orders in flight, send delay and completion times of the run over time",
    )
    caption = (
        f"Completion times are those of the orders accepted in {timeline.slice_seconds} s; a p99 needs "
        f"{min_count(0.99)} orders. Click a point, or enter a second, to list its orders."
    )
    if all(each.send_delay_ms is None for each in timeline.seconds):
        caption += " Send delays are stored with the verdict."
    st.caption(caption)
    second = _selected_second(timeline, clicked)
    if second is not None:
        _show_orders(run_id, timeline, second)


def _selected_second(timeline: RunTimeline, clicked: str | None) -> int | None:
    if clicked is not None:
        st.session_state["second"] = int(clicked)
    last = len(timeline.seconds) - 1
    entered = st.number_input(
        "Second of the run",
        min_value=0,
        value=None,
        step=1,
        key="second",
        bind="query-params",
        placeholder=f"0 to {last}",
        width=220,
    )
    return None if entered is None else min(int(entered), last)


def _show_orders(run_id: str, timeline: RunTimeline, second: int) -> None:
    width = seconds_per_point(timeline)
    since = timeline.started_at + timedelta(seconds=second)
    rows = cached(run_timeline.orders_of_second)(run_id, since, width, LISTED_ORDERS)
    span = f"second +{second} s" if width == 1 else f"seconds +{second} s to +{second + width - 1} s"
    if not rows:
        page.empty_state(f"No orders in {span}", "Select another second.")
        return
    new = sum(row["is_new"] for row in rows)
    limited = f"; the newest {LISTED_ORDERS} are listed" if len(rows) == LISTED_ORDERS else ""
    st.caption(
        f"{span.capitalize()} ({since:%H:%M:%S} UTC): {new} orders accepted, {len(rows) - new} accepted "
        f"before and open in it{limited}. Click a row to open the order."
    )
    clicked = page.clickable_table(
        "second-orders",
        _table(rows),
        [row["order_id"] for row in rows],
        first_column="in this second",
        alt="Orders of the selected time",
        column_config={
            "accepted": st.column_config.DatetimeColumn("accepted (UTC)", format="HH:mm:ss.SSS"),
            "completion s": st.column_config.NumberColumn("completion", format="%.3f s"),
        },
    )
    if clicked:
        page.switch_page("orders", order=clicked)


def _table(rows: list[Row]) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {
                "in this second": "accepted" if row["is_new"] else "open",
                "order": row["order_id"],
                "accepted": row["accepted_at"].astimezone(UTC).replace(tzinfo=None),
                "state": row["state"],
                "reason": row["reason"] or "",
                "completion s": None if row["completion_ms"] is None else row["completion_ms"] / 1000,
                "within limit": {True: "yes", False: "LATE", None: ""}[row["within_limit"]],
                "attempts": row["attempts"],
                "failed": row["failed_attempts"],
            }
            for row in rows
        ]
    )
