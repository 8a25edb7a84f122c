"""Cached database reads, shared by all users: the load on PostgreSQL does not grow with open dashboards."""

from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, TypeVar

import streamlit as st
from streamlit.runtime.caching.cache_utils import CachedFunc

from dashboard.data import clients
from db.read_only_database import ReadOnlyDatabase

LIVE_SECONDS = 1.5
"""Time to live of a live read. Shorter than the refresh interval, so that every refresh shows new data."""

CHART_SECONDS = 10.0

P = ParamSpec("P")
T = TypeVar("T")

_cached: dict[tuple[Callable[..., Any], float], Any] = {}


def cached(
    read: Callable[Concatenate[ReadOnlyDatabase, P], T], ttl_seconds: float = LIVE_SECONDS
) -> CachedFunc[P, T]:
    """Return a function that calls `read` with the dashboard's database and caches the results.

    `clear()` of the returned function deletes its cached results.
    """
    if (read, ttl_seconds) not in _cached:

        def read_database(*args: P.args, **kwargs: P.kwargs) -> T:
            return read(clients.database(), *args, **kwargs)

        # Streamlit identifies a cached function by its module and qualified name.
        read_database.__module__ = read.__module__
        read_database.__qualname__ = read.__qualname__
        cache = st.cache_data(ttl=ttl_seconds, max_entries=100, show_spinner=False)
        _cached[read, ttl_seconds] = cache(read_database)
    function: CachedFunc[P, T] = _cached[read, ttl_seconds]
    return function
