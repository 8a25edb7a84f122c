"""The stored load tests: their trend, and a table whose rows open them."""

import streamlit as st

from dashboard import page_elements as page
from dashboard.data.cached import cached
from dashboard.sections import running_load_tests
from dashboard.view_models import run_tables
from db.database import Row
from db.read_models import stored_runs
from db.read_models.stored_runs import LISTED_RUNS
from loadtest.charts.run.trend import trend

_ROWS = "stored-runs-rows"
"""Session state: how many runs are listed."""


def show() -> None:
    limit = st.session_state.get(_ROWS, LISTED_RUNS)
    rows = cached(stored_runs.newest_runs)(limit)
    if not rows:
        page.empty_state("No load tests yet", "Start one above, for example 3 orders per second for 30 s.")
        return
    _show_trend(rows)
    _show_table(rows)
    if len(rows) == limit:
        st.button("Older runs", icon=":material/expand_more:", on_click=_show_older)


def _show_trend(rows: list[Row]) -> None:
    judged = [row for row in rows if row["verdict"] is not None]
    if len(judged) < 2:
        return
    st.subheader("Trend", anchor=False)
    scenarios = sorted({row["scenario"] for row in judged})
    scenario = page.select("Scenario", "scenario", scenarios, placeholder="all scenarios", width=260)
    pinned = next((row["run_id"] for row in rows if row["is_baseline"]), None)
    caption = "Click a point to open the run. "
    caption += (
        "The dotted lines are the pinned baseline." if pinned else "Pin a run as the baseline on its page."
    )
    if without := len(rows) - len(judged):
        caption += f" Not drawn: {without} run{'' if without == 1 else 's'} without a verdict."
    st.caption(caption)
    shown = [row for row in judged if scenario is None or row["scenario"] == scenario or row["is_baseline"]]
    clicked = page.clickable_chart(
        trend(shown, page.palette()),
        "trend",
        "Completion times, late share and throughput of the runs",
    )
    if clicked:
        running_load_tests.open_run(clicked)


def _show_table(rows: list[Row]) -> None:
    st.subheader("Stored runs", anchor=False)
    st.caption("Click a row to open the run.")
    clicked = page.clickable_table(
        "stored-runs-table",
        run_tables.stored_runs(rows, running_load_tests.in_progress(rows)),
        [row["run_id"] for row in rows],
        first_column="verdict",
        placeholder="",
        alt="Stored runs, newest first",
        column_config={
            "started": st.column_config.DatetimeColumn("started (UTC)", format="YYYY-MM-DD HH:mm:ss"),
            "rate": st.column_config.NumberColumn("orders / s", format="%.2f"),
            "p99 s": st.column_config.NumberColumn("p99", format="%.3f s"),
        },
    )
    if clicked:
        running_load_tests.open_run(clicked)


def _show_older() -> None:
    st.session_state[_ROWS] = st.session_state.get(_ROWS, LISTED_RUNS) + LISTED_RUNS
