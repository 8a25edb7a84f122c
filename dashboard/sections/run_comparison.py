"""Two stored runs side by side, worked out once for all viewers: a run that has ended does not change."""

from dataclasses import dataclass
from datetime import datetime

import streamlit as st

from dashboard.data import clients
from dashboard.view_models import runs
from db.read_models import stored_runs

KEPT_PAIRS = 20


@dataclass(frozen=True)
class EndedRun:
    """Its end tells it from a run of the same name in other books."""

    run_id: str
    ended_at: datetime


@dataclass(frozen=True)
class SideBySide:
    """`compared` as of `loadtest.verdict.comparison`; the curves are (ms, share that took at most that)."""

    compared: runs.Json
    curve: list[tuple[int, float]]
    curve_beside: list[tuple[int, float]]


@st.cache_data(max_entries=KEPT_PAIRS, show_spinner=False)
def side_by_side(one: EndedRun, other: EndedRun) -> SideBySide | None:
    """None when one of them has no finished order. Raises DatabaseUnavailable."""
    times, beside = (stored_runs.times(clients.reader(), run.run_id) for run in (one, other))
    if times is None or beside is None or not times.completion_ms or not beside.completion_ms:
        return None
    return SideBySide(runs.compared(times, beside), runs.curve(times), runs.curve(beside))
