"""Reads from the REST API, shared by all viewers for a moment."""

import streamlit as st

from dashboard.data import clients
from dashboard.data.api_metrics import ApiMeter, ApiSpeed
from dashboard.data.cached import LIVE_SECONDS
from orchestrator.errors import OrderSystemError, ServiceUnavailable
from orchestrator.rest_client import Json
from orchestrator.security.key_hashing import Role

ROLE_SECONDS = 5.0


@st.cache_resource
def _meter() -> ApiMeter:
    return ApiMeter()


@st.cache_data(ttl=LIVE_SECONDS, show_spinner=False)
def health() -> Json | None:
    """Return the API's health report, or None when the API is not responding."""
    try:
        return clients.api().health()
    except ServiceUnavailable:
        return None


@st.cache_data(ttl=LIVE_SECONDS, show_spinner=False)
def api_speed_and_queues() -> tuple[ApiSpeed, dict[str, bool]] | None:
    """Return the API's speed and whether each task queue has active workers, or None without an API."""
    try:
        return _meter().read(clients.api().metrics)
    except ServiceUnavailable:
        return None


def viewer_may(role: Role) -> bool:
    """Return whether the viewer's key has this role. True while the role is unknown: the API decides then."""
    known = _role_of(clients.viewer_key())
    return known is None or known >= role


@st.cache_data(ttl=ROLE_SECONDS, max_entries=200, show_spinner=False)
def _role_of(key: str | None) -> Role | None:
    try:
        return clients.api().with_key(key).role()
    except OrderSystemError:
        return None
