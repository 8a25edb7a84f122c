"""Live readings, shared by all viewers for a moment: the cost does not grow with open dashboards."""

import streamlit as st

from dashboard import sources
from dashboard.api_client import Json
from dashboard.api_meter import ApiSpeed
from dashboard.workers import WorkerUse
from db import charts, live, run_shelf
from db.live import InFlight, Lately
from db.pool import Row
from orchestrator.errors import OrderSystemError, ServiceAway
from orchestrator.keys import Role

PACE_SECONDS = 120
ROLE_SECONDS = 5.0

_shared = st.cache_data(ttl=sources.SHARED_SECONDS, max_entries=50, show_spinner=False)


@_shared
def in_flight() -> InFlight:
    return live.in_flight(sources.reader())


@_shared
def race(limit: int) -> list[Row]:
    return live.race(sources.reader(), limit)


@_shared
def waiting_for_a_person(limit: int) -> list[Row]:
    return live.waiting_for_a_person(sources.reader(), limit)


@_shared
def pace() -> list[Row]:
    return live.pace(sources.reader(), PACE_SECONDS)


@_shared
def finished_lately(seconds: int) -> Lately:
    return live.finished_lately(sources.reader(), seconds)


@_shared
def faults_in_force() -> charts.FaultSpan | None:
    return charts.faults_in_force(sources.reader())


@_shared
def runs_under_way() -> list[Row]:
    return run_shelf.under_way(sources.reader())


@_shared
def stored_runs(limit: int) -> list[Row]:
    return run_shelf.shelf(sources.reader(), limit)


@_shared
def stored_run(run_id: str) -> Row | None:
    return run_shelf.verdict(sources.reader(), run_id)


@_shared
def health() -> Json | None:
    """The API's health report, or None when the API does not answer."""
    try:
        return sources.api().health()
    except ServiceAway:
        return None


def viewer_may(role: Role) -> bool:
    """Whether this viewer's key is good for it; also while nobody can tell, since then a try will."""
    known = _role_of(sources.viewer_key())
    return known is None or known >= role


@st.cache_data(ttl=ROLE_SECONDS, max_entries=200, show_spinner=False)
def _role_of(key: str | None) -> Role | None:
    try:
        return sources.api().with_key(key).role()
    except OrderSystemError:
        return None


@_shared
def api_look() -> tuple[ApiSpeed, dict[str, bool]] | None:
    """How quick the API is and which task queues are served, or None when it does not answer."""
    try:
        return sources.api_meter().look(sources.api().metrics)
    except ServiceAway:
        return None


@_shared
def worker_use() -> list[WorkerUse]:
    """What each worker uses. Shared above all: CPU is measured since the last look, whoever took it."""
    return sources.worker_meter().read()


@st.cache_data(ttl=30, show_spinner=False)
def last_finished_at() -> object:
    return live.last_finished_at(sources.reader())
