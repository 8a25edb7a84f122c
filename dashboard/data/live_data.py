"""Live readings, shared by all viewers for a moment: the cost does not grow with open dashboards."""

import streamlit as st

from dashboard.data import clients
from dashboard.data.api_metrics import ApiSpeed
from dashboard.data.worker_usage import WorkerUse
from db.database import Row
from db.read_models import latency, live_orders
from db.read_models import stored_runs as run_queries
from db.read_models.live_orders import InFlight, RecentOutcomes
from orchestrator.errors import OrderSystemError, ServiceUnavailable
from orchestrator.rest_client import Json
from orchestrator.security.key_hashing import Role

PACE_SECONDS = 120
ROLE_SECONDS = 5.0

_shared = st.cache_data(ttl=clients.SHARED_SECONDS, max_entries=50, show_spinner=False)


@_shared
def in_flight() -> InFlight:
    return live_orders.in_flight(clients.reader())


@_shared
def race(limit: int) -> list[Row]:
    return live_orders.race(clients.reader(), limit)


@_shared
def waiting_for_a_person(limit: int) -> list[Row]:
    return live_orders.waiting_for_a_person(clients.reader(), limit)


@_shared
def pace() -> list[Row]:
    return live_orders.pace(clients.reader(), PACE_SECONDS)


@_shared
def recent_outcomes(seconds: int) -> RecentOutcomes:
    return live_orders.recent_outcomes(clients.reader(), seconds)


@_shared
def faults_in_force() -> latency.FaultSpan | None:
    return latency.faults_in_force(clients.reader())


@_shared
def runs_under_way() -> list[Row]:
    return run_queries.under_way(clients.reader())


@_shared
def stored_runs(limit: int) -> list[Row]:
    return run_queries.shelf(clients.reader(), limit)


@_shared
def stored_run(run_id: str) -> Row | None:
    return run_queries.verdict(clients.reader(), run_id)


@_shared
def health() -> Json | None:
    """The API's health report, or None when the API does not answer."""
    try:
        return clients.api().health()
    except ServiceUnavailable:
        return None


def viewer_may(role: Role) -> bool:
    """Whether this viewer's key is good for it; also while nobody can tell, since then a try will."""
    known = _role_of(clients.viewer_key())
    return known is None or known >= role


@st.cache_data(ttl=ROLE_SECONDS, max_entries=200, show_spinner=False)
def _role_of(key: str | None) -> Role | None:
    try:
        return clients.api().with_key(key).role()
    except OrderSystemError:
        return None


@_shared
def api_look() -> tuple[ApiSpeed, dict[str, bool]] | None:
    """How quick the API is and which task queues are served, or None when it does not answer."""
    try:
        return clients.api_meter().look(clients.api().metrics)
    except ServiceUnavailable:
        return None


@_shared
def worker_use() -> list[WorkerUse]:
    """What each worker uses. Shared above all: CPU is measured since the last look, whoever took it."""
    return clients.worker_meter().read()


@st.cache_data(ttl=30, show_spinner=False)
def last_finished_at() -> object:
    return live_orders.last_finished_at(clients.reader())
