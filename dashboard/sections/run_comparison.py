"""Comparison of a stored run with a baseline run."""

from datetime import datetime

import streamlit as st

from dashboard.data import clients
from dashboard.data.cached import CHART_SECONDS, cached
from dashboard.page_elements import chart, empty_state, palette
from dashboard.view_models import run_tables
from dashboard.view_models.slo_status import SLO_TARGET
from db.read_models import latency, stored_runs
from db.read_models.latency import Slo
from loadtest.charts import distribution, plain_text
from loadtest.verdict.comparison import compare_times, setup_differences
from loadtest.verdict.schema import schema_problem
from orchestrator.rest_client import Json

MAX_CACHED_PAIRS = 20

EndedRun = tuple[str, datetime]
"""Run id and end time. The end time distinguishes runs with the same id in different databases."""

Cdf = list[tuple[int, float]]


def show(run_id: str, baseline_id: str) -> None:
    rows = [cached(stored_runs.verdict)(each) for each in (run_id, baseline_id)]
    ended = [(row["run_id"], row["ended_at"]) for row in rows if row and row["ended_at"]]
    for problem in (schema_problem(row["verdict"]) for row in rows if row and row["verdict"]):
        if problem is not None:
            st.warning(plain_text.markdown(problem), icon=":material/update:")
            return
    comparison = compare(*ended) if len(ended) == len(rows) else None
    if comparison is None:
        empty_state("Nothing to compare", "Both runs need a verdict and a finished order.")
        return
    result, run_cdf, baseline_cdf = comparison
    st.subheader("Comparison", anchor=False)
    st.markdown(
        f"**{plain_text.markdown(run_id)}** compared with {plain_text.markdown(baseline_id)}: "
        f"**{result['verdict']}**"
    )
    setups = [cached(stored_runs.setup, CHART_SECONDS)(each) for each in (run_id, baseline_id)]
    if setups[0] and setups[1] and (found := setup_differences(setups[0], setups[1])):
        st.caption(f"Not the same test: {plain_text.markdown('; '.join(found))}.")
    curves = {plain_text.chart(run_id): run_cdf, plain_text.chart(baseline_id): baseline_cdf}
    default = Slo(clients.settings().order_deadline_seconds, SLO_TARGET)
    slo = cached(latency.slo_of)(run_id, default)
    chart(
        distribution.cumulative(curves, palette(), round(slo.limit_seconds * 1000)),
        "comparison",
        "Cumulative distribution of completion times of both runs",
    )
    st.dataframe(
        run_tables.differences(result),
        hide_index=True,
        key="differences",
        alt="Figures of both runs and their differences",
    )
    st.caption(f"{result['assumptions']}.")


@st.cache_data(max_entries=MAX_CACHED_PAIRS, show_spinner=False)
def compare(run: EndedRun, baseline: EndedRun) -> tuple[Json, Cdf, Cdf] | None:
    """Return the comparison and both CDFs, or None if a run has no finished order.

    Cached without expiry: ended runs do not change.
    """
    times, baseline_times = (stored_runs.times(clients.database(), run_id) for run_id, _ in (run, baseline))
    if times is None or baseline_times is None or not times.finished_ms or not baseline_times.finished_ms:
        return None
    return compare_times(times, baseline_times), run_tables.cdf(times), run_tables.cdf(baseline_times)
