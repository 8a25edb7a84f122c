"""Comparison of a stored run with a baseline run."""

from datetime import datetime
from typing import NamedTuple

import streamlit as st

from dashboard import plain_text
from dashboard.charts import distribution
from dashboard.data import clients
from dashboard.data.cached import cached
from dashboard.page_elements import CHART_CONFIG, empty_state, palette
from dashboard.view_models import run_tables
from db.read_models import stored_runs
from loadtest.verdict.comparison import compare_times

MAX_CACHED_PAIRS = 20


class EndedRun(NamedTuple):
    """`ended_at` distinguishes runs of the same id in different databases."""

    run_id: str
    ended_at: datetime


class Comparison(NamedTuple):
    """`result` as returned by `loadtest.verdict.comparison.compare_times`."""

    result: run_tables.Json
    run_cdf: list[tuple[int, float]]
    baseline_cdf: list[tuple[int, float]]


def show(run_id: str, baseline_id: str) -> None:
    run, baseline = _ended(run_id), _ended(baseline_id)
    comparison = compare(run, baseline) if run and baseline else None
    if comparison is None:
        empty_state("Nothing to compare", "Both runs need a verdict and a finished order.")
        return
    st.subheader("Comparison", anchor=False)
    st.markdown(
        f"**{plain_text.markdown(run_id)}** compared with {plain_text.markdown(baseline_id)}: "
        f"**{comparison.result['verdict']}**"
    )
    curves = {
        plain_text.chart(run_id): comparison.run_cdf,
        plain_text.chart(baseline_id): comparison.baseline_cdf,
    }
    limit_ms = round(clients.settings().order_deadline_seconds * 1000)
    st.plotly_chart(
        distribution.cumulative(curves, palette(), limit_ms),
        key="comparison",
        config=CHART_CONFIG,
        alt="Cumulative distribution of completion times of both runs",
    )
    st.dataframe(run_tables.differences(comparison.result), hide_index=True, key="differences")


def _ended(run_id: str) -> EndedRun | None:
    row = cached(stored_runs.verdict)(run_id)
    return EndedRun(run_id, row["ended_at"]) if row and row["ended_at"] else None


@st.cache_data(max_entries=MAX_CACHED_PAIRS, show_spinner=False)
def compare(run: EndedRun, baseline: EndedRun) -> Comparison | None:
    """Return None when a run has no finished order. The result does not expire: ended runs do not change."""
    times, baseline_times = (stored_runs.times(clients.database(), each.run_id) for each in (run, baseline))
    if times is None or baseline_times is None or not times.completion_ms or not baseline_times.completion_ms:
        return None
    return Comparison(
        compare_times(times, baseline_times), run_tables.cdf(times), run_tables.cdf(baseline_times)
    )
