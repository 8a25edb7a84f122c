"""The page of one load test: verdict, course over time, causes of late orders, comparison."""

from functools import partial

import streamlit as st

from dashboard import page_elements as page
from dashboard.data import clients
from dashboard.data.cached import CHART_SECONDS, cached
from dashboard.sections import run_comparison, running_load_tests, stored_run
from dashboard.sections.run import properties, time_axis, why_late
from db.database import Row
from db.read_models import run_timeline, stored_runs
from loadtest.charts import plain_text

CAUSES_HEIGHT = 500
"""About the height of the waterfall with its texts, in pixels."""


def show(run_id: str) -> None:
    """Draw the page, which refreshes until the run has its verdict."""
    st.button(
        "All load tests", icon=":material/arrow_back:", on_click=page.replace_query, args=("load_tests",)
    )
    run = stored_runs.run_summary(clients.database(), run_id)
    if run is None:
        page.page_header(f"Load test {plain_text.markdown(run_id)}", live=False)
        page.empty_state(f"Run {plain_text.markdown(run_id)} not found", "It is starting, or it was deleted.")
        return
    is_running = bool(running_load_tests.in_progress([run]))
    is_live = page.page_header(f"Load test {plain_text.markdown(run['label'] or run_id)}", live=is_running)
    if run["label"]:
        st.caption(f"Run id {plain_text.markdown(run_id)}")
    if run["notes"]:
        st.markdown(plain_text.markdown(run["notes"]))
    if is_running:
        page.live_fragment(partial(_wait_for_verdict, run_id), is_live, every=5.0)
    else:
        stored_run.show(run_id, is_running=False)
    # Not in a fragment: a change is also shown in the title.
    with page.error_boundary("properties"):
        properties.show(run)
    page.live_fragment(
        partial(time_axis.show, run_id, is_live), is_live, every=5.0, result_key=running_load_tests.RESULT_KEY
    )
    if is_running:
        return
    page.live_fragment(partial(_show_causes, run), is_live=False, later=CAUSES_HEIGHT)


def _wait_for_verdict(run_id: str) -> None:
    run = stored_runs.run_summary(clients.database(), run_id)
    if run is None or not running_load_tests.in_progress([run]):
        cached(run_timeline.run_timeline, CHART_SECONDS).clear()
        # Redraw the whole page, now without refresh.
        st.rerun()
    running_load_tests.show_progress_of(run_id)
    stored_run.show(run_id, is_running=True)


def _show_causes(run: Row) -> None:
    with page.error_boundary("why-late"):
        why_late.show(run["run_id"])
    with page.error_boundary("comparison"):
        _compare(run)


def _compare(run: Row) -> None:
    st.subheader("Compare with another run", anchor=False)
    others = [
        row
        for row in cached(stored_runs.newest_runs)(stored_runs.LISTED_RUNS)
        if row["run_id"] != run["run_id"]
    ]
    pinned = next((row["run_id"] for row in others if row["is_baseline"]), None)
    names = [row["run_id"] for row in others]
    placeholder = f"the pinned baseline {pinned}" if pinned else "select or type a run id"
    chosen = page.select("Compare with", "baseline", names, placeholder=placeholder, accept_new_options=True)
    baseline = chosen or pinned
    if baseline and baseline != run["run_id"]:
        run_comparison.show(run["run_id"], baseline)
