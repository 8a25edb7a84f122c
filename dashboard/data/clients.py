"""The settings, database and API client of the dashboard process, shared by all users."""

from datetime import UTC, datetime

import streamlit as st
from psycopg.conninfo import make_conninfo

from dashboard.data.order_api import OrderApi
from dashboard.sign_in import session_cookie, sessions
from db.read_only_database import ROLE, ReadOnlyDatabase
from orchestrator.settings import Settings


@st.cache_resource
def settings() -> Settings:
    """Return the settings. Raises SettingsError."""
    return Settings.load()


@st.cache_resource(on_release=lambda database: database.close())
def database() -> ReadOnlyDatabase:
    """Return a pool of DATABASE_READER_URL or of the URL of the order database."""
    given = settings()
    if given.database_reader_url is not None:
        return ReadOnlyDatabase(given.database_reader_url)
    if given.uses_embedded_postgres:
        return ReadOnlyDatabase(make_conninfo(given.order_database_url, user=ROLE))
    return ReadOnlyDatabase(given.order_database_url)


@st.cache_resource(on_release=lambda api: api.close())
def _api_without_key() -> OrderApi:
    return OrderApi(settings().api_url)


def api() -> OrderApi:
    """Return the API client with the user's key. Works only in Streamlit's script thread."""
    return _api_without_key().with_key(user_key())


def user_key() -> str | None:
    """Return the API key of the user's session, or None without one."""
    return sessions.api_key(st.context.cookies.get(session_cookie(settings())))


def now() -> datetime:
    return datetime.now(UTC)
