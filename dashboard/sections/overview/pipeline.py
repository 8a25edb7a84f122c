"""The pipeline: orders in each state, and the steps for which they wait."""

from datetime import timedelta

import streamlit as st

from dashboard import page_elements as page
from dashboard.data import clients
from dashboard.data.cached import CHART_SECONDS, cached
from dashboard.view_models.pipeline import Stage, StepStatus, stages
from db.domain import Step
from db.read_models import live_orders, step_times
from db.read_models.step_times import MAX_ORDERS

HELP = (
    "Orders in flight in each state, and the outcomes of the time window. Below: the median time in the "
    "next step, with its failed attempts and the delays between them, and the number of failed attempts. "
    f"They are those of the {MAX_ORDERS:,} orders of the time window that finished last."
)


def show(window_seconds: int) -> None:
    """Draw a card for each state, with a link to its orders."""
    st.subheader("Pipeline", anchor=False, help=HELP)
    found = stages(
        cached(live_orders.open_by_state)(),
        cached(live_orders.recent_outcomes)(window_seconds).outcomes,
        cached(step_times.newest, CHART_SECONDS)(),
        clients.now() - timedelta(seconds=window_seconds),
    )
    with st.grid(len(found), min_column_width=126, gap="xsmall"):
        for stage in found:
            _card(stage)


def _card(stage: Stage) -> None:
    name = stage.state.replace("_", " ").capitalize()
    with st.container(border=True, gap="xxsmall", height="stretch", key=f"stage-{stage.state}"):
        page.page_link("orders", name, state=stage.state)
        st.markdown(f"**{stage.orders:,}**")
        if stage.steps:
            st.caption("  \n".join(_text(step) for step in stage.steps))


def _text(status: StepStatus) -> str:
    """Return two lines: one line that wraps with large numbers would move the page at a refresh."""
    time = "–" if status.median_ms is None else f"{status.median_ms:,} ms"
    if status.step is Step.REVIEW:
        return f"review {time}"
    return f"{status.step} {time}  \n{status.failed_attempts:,} failed"
