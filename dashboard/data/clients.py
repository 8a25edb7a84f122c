"""What every page reads from, made once a process and shared by all its viewers.

Readings are shared for a moment too: ten open dashboards ask PostgreSQL hardly more than one does.
"""

from datetime import UTC, datetime

import streamlit as st
from psycopg.conninfo import make_conninfo

from dashboard.api_client import OrderApi
from dashboard.auth import viewers
from dashboard.data.api_metrics import ApiMeter
from dashboard.data.worker_usage import WorkerMeter
from db.read_only_database import ROLE, ReadOnlyDatabase, conninfo_as_reader
from orchestrator.settings import Settings

TICK_SECONDS = 2.0
"""How often a live page refreshes."""

SHARED_SECONDS = 1.5
"""How old a live reading may be. Less than a tick, so that every tick shows something new."""


@st.cache_resource
def settings() -> Settings:
    """Raises SettingsError."""
    return Settings.load()


@st.cache_resource(on_release=lambda reader: reader.close())
def reader() -> ReadOnlyDatabase:
    return open_reader(settings())


def open_reader(settings: Settings) -> ReadOnlyDatabase:
    """Return a pool of the role `orders_reader`: from DATABASE_READER_URL if set, else from the URL of the order
    database. Where that server has no such role, the user of that URL reads, in read-only transactions."""
    if settings.database_reader_url is not None:
        return ReadOnlyDatabase(settings.database_reader_url)
    if settings.uses_embedded_postgres:
        return ReadOnlyDatabase(make_conninfo(settings.order_database_url, user=ROLE))
    return ReadOnlyDatabase(conninfo_as_reader(settings.order_database_url))


@st.cache_resource(on_release=lambda api: api.close())
def _api_without_key() -> OrderApi:
    return OrderApi(settings().api_url)


def api() -> OrderApi:
    """The API as this viewer may use it: with the viewer's own key, or none. To be called by the page itself,
    since a thread of its own has no viewer."""
    return _api_without_key().with_key(viewer_key())


def viewer_key() -> str | None:
    """The API key that this viewer gave, or None where none is needed."""
    return viewers.key_of(st.context.cookies)


@st.cache_resource
def api_meter() -> ApiMeter:
    return ApiMeter()


@st.cache_resource
def worker_meter() -> WorkerMeter:
    return WorkerMeter(settings().home)


def now() -> datetime:
    """The time, aware."""
    return datetime.now(UTC)
