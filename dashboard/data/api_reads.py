"""Reads from the REST API, shared by all viewers for a moment."""

import streamlit as st

from dashboard.data import clients
from orchestrator.errors import ServiceUnavailable
from orchestrator.rest_client import Json
from orchestrator.security import role_cache
from orchestrator.security.key_hashing import Role

HEALTH_SECONDS = 4.0
"""An API that hangs costs the timeout of one read in this time, for all viewers together."""


@st.cache_data(ttl=HEALTH_SECONDS, show_spinner=False)
def health() -> Json | None:
    """Return the API's health report, or None when the API is not responding."""
    try:
        return clients.api().health()
    except ServiceUnavailable:
        return None


def viewer_may(role: Role) -> bool:
    """Return whether the viewer's key has this role. True while the role is unknown: the API decides then."""
    try:
        known = _roles().role_of(clients.viewer_key())
    except ServiceUnavailable:
        return True
    return known is None or known >= role


@st.cache_resource
def _roles() -> role_cache.RoleCache:
    api_url = clients.settings().api_url
    return role_cache.RoleCache(lambda key: role_cache.look_up_role(api_url, key), key_required=False)
