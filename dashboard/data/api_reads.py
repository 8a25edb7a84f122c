"""Reads from the REST API, cached for seconds and shared by all users."""

import streamlit as st

from dashboard.data import clients
from dashboard.data.cached import CHART_SECONDS
from orchestrator.errors import ServiceUnavailable
from orchestrator.rest_client import Json
from orchestrator.security import role_cache
from orchestrator.security.key_hashing import Role

HEALTH_SECONDS = 4.0
"""An API that hangs costs the timeout of one read in this time, for all users together."""


@st.cache_data(ttl=HEALTH_SECONDS, show_spinner=False)
def health() -> Json | None:
    """Return the API's health report, or None when the API is not responding."""
    try:
        return clients.api().health()
    except ServiceUnavailable:
        return None


@st.cache_data(ttl=CHART_SECONDS, show_spinner=False)
def faults_unavailable() -> str | None:
    """Return why faults cannot be injected. None also when the API is not responding: it decides later."""
    try:
        return clients.api().faults_unavailable()
    except ServiceUnavailable:
        return None


def user_may(role: Role) -> bool:
    """Return whether the user's key has this role. True while the role is unknown: the API decides then."""
    try:
        known = _roles().role_of(clients.user_key())
    except ServiceUnavailable:
        return True
    return known is None or known >= role


@st.cache_resource
def _roles() -> role_cache.RoleCache:
    api_url = clients.settings().api_url
    return role_cache.RoleCache(lambda key: role_cache.look_up_role(api_url, key), key_required=False)
