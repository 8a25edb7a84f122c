"""Why orders of a load test were late or slow."""

import streamlit as st

from dashboard import page_elements as page
from dashboard.data import clients
from dashboard.data.cached import CHART_SECONDS, cached
from db.read_models import run_timeline, time_groups
from db.read_models.time_groups import SLOW_SHARE
from loadtest.charts import plain_text
from loadtest.charts.run.why_late import disturbance_windows, explanation, waterfall, why_late

_LABELS = {"late": "Late orders", "slow": "Slow orders"}


def show(run_id: str) -> None:
    default = clients.settings().order_deadline_seconds
    timeline = cached(run_timeline.run_timeline, CHART_SECONDS)(run_id, default)
    if timeline is None:
        return
    windows, names = disturbance_windows(
        timeline.disturbances, timeline.started_at, timeline.until, timeline.limit_seconds
    )
    groups = cached(time_groups.time_groups, CHART_SECONDS)(run_id, tuple(windows))
    st.subheader("Why late?", anchor=False)
    found = {name: group for name in _LABELS if (group := getattr(groups, name)) is not None}
    if not found or groups.on_time is None:
        page.empty_state(
            "Nothing to explain", "The run has no late or slow orders, or none that are on time."
        )
        return
    name = st.segmented_control(
        "Orders", list(found), format_func=_LABELS.__getitem__, default=next(iter(found)), required=True,
        key="late-or-slow",
    ) or next(iter(found))  # fmt: skip
    result = why_late(found[name], groups.on_time, names)
    st.markdown(plain_text.markdown(explanation(result, name)))
    page.chart(
        waterfall(result, name, page.palette(), timeline.limit_seconds),
        "why-late",
        f"What each step, waiting and each disturbance added to the mean time of the {name} orders",
    )
    st.caption(
        f"Mean times. Orders: {found[name].orders:,} {name}, {groups.on_time.orders:,} on time. "
        f"Slow orders are the slowest {100 * (1 - SLOW_SHARE):.0f} % of the orders within the limit. Waiting "
        "time in the window of a disturbance counts to the disturbance. The bars sum exactly. Orders without "
        "an outcome, such as rejected ones, have no times."
    )
