"""The playback of a load test."""

import streamlit as st

from dashboard.data import clients
from dashboard.page_elements import empty_state
from db.read_models import playback
from db.read_models.run_timeline import run_timeline
from loadtest.playback.document import playback_page
from loadtest.playback.run_playback import RunPlayback

HEIGHT = 660
"""In pixels. The picture gets what the controls leave: 480 on a wide page, 320 on a phone."""

SNAPSHOT_SECONDS = 300.0
"""A changed page starts from the beginning, so the playback of a running load test does not follow each
refresh."""


def show(run_id: str) -> None:
    """Draw a switch and, while it is on, the playback."""
    if not st.toggle(
        "Playback", key="playback", help="Watch the orders of this run move towards their limit."
    ):
        return
    with st.spinner("Reading the orders", show_time=False):
        page = _page(run_id, st.context.theme.type)
    if page is None:
        empty_state("No orders to play back", "This run has no accepted order in the order database.")
        return
    html, note = page
    st.iframe(html, height=HEIGHT, alt=f"Playback of the load test {run_id}")
    if note:
        st.caption(note)


@st.cache_data(ttl=SNAPSHOT_SECONDS, max_entries=8, show_spinner=False)
def _page(run_id: str, theme: str | None) -> tuple[str, str] | None:
    """Return the page and a note, or None without an accepted order."""
    timeline = run_timeline(clients.database(), run_id)
    if timeline is None:
        return None
    orders = playback.orders(clients.database(), run_id, timeline.started_at)
    if not orders.shown:
        return None
    run = RunPlayback(
        timeline.started_at, timeline.limit_seconds, orders, timeline.disturbances, timeline.faults
    )
    return playback_page(run, theme), run.note
