"""Load tests: start, watch and stop runs; stored runs with their verdict; comparison of two runs."""

from functools import partial

import streamlit as st

from dashboard.data.cached import cached
from dashboard.page_elements import (
    empty_state,
    error_boundary,
    live_fragment,
    page_header,
    select,
    stop_on_invalid_query,
)
from dashboard.sections import run_comparison, running_load_tests, start_load_test, stored_run
from dashboard.view_models import run_tables
from db.database import Row
from db.read_models import stored_runs

TABLE_ROWS = 100
_ROWS = "stored-runs-rows"

is_live = page_header("Load tests", live=True)
stop_on_invalid_query("load_tests")


def select_runs(rows: list[Row]) -> tuple[str | None, str | None]:
    """Return the selected run and its baseline; the user may type any run id."""
    running_load_tests.select_requested_run()
    names = [row["run_id"] for row in rows]

    left, right = st.columns(2)
    with left:
        run = select("Run", "run", names, placeholder="select or type a run id", accept_new_options=True)
    with right:
        baseline = select("Compare with", "baseline", names, placeholder="none", accept_new_options=True)
    return run, baseline


def show_stored(run: str | None, baseline: str | None) -> None:
    limit = st.session_state.get(_ROWS, TABLE_ROWS)
    rows = cached(stored_runs.newest_runs)(limit)
    if not rows:
        empty_state("No load tests yet", "Start one above, for example 3 orders per second for 30 s.")
        return
    if run:
        stored_run.show(run)
    if run and baseline and run != baseline:
        run_comparison.show(run, baseline)
    st.dataframe(
        run_tables.stored_runs(rows),
        hide_index=True,
        placeholder="",
        key="stored-runs",
        column_config={
            "started": st.column_config.DatetimeColumn("started (UTC)", format="YYYY-MM-DD HH:mm:ss"),
            "rate": st.column_config.NumberColumn("orders / s", format="%.2f"),
            "p99 s": st.column_config.NumberColumn("p99", format="%.3f s"),
        },
    )
    if len(rows) == limit:
        st.button("Older runs", icon=":material/expand_more:", on_click=show_older)


def show_older() -> None:
    st.session_state[_ROWS] = st.session_state.get(_ROWS, TABLE_ROWS) + TABLE_ROWS


with error_boundary("load-tests-form"):
    start_load_test.show()
live_fragment(running_load_tests.show, is_live, result_key=running_load_tests.RESULT_KEY)
with error_boundary("load-tests-runs"):
    st.subheader("Stored runs", anchor=False)
    # Draw the select boxes even if there are no runs. When code selects a run, Streamlit adds it to the URL
    # only if the widget existed in the previous script run.
    selected = select_runs(cached(stored_runs.newest_runs)(st.session_state.get(_ROWS, TABLE_ROWS)))
    live_fragment(partial(show_stored, *selected), is_live, every=5.0)
