"""The settings, database and API client of the dashboard process, shared by all viewers."""

from datetime import UTC, datetime

import streamlit as st

from dashboard.api_client import OrderApi
from dashboard.auth import viewers
from db.read_only_database import ReadOnlyDatabase
from orchestrator.settings import Settings


@st.cache_resource
def settings() -> Settings:
    """Raises SettingsError."""
    return Settings.load()


@st.cache_resource(on_release=lambda database: database.close())
def database() -> ReadOnlyDatabase:
    return ReadOnlyDatabase.of(settings())


@st.cache_resource(on_release=lambda api: api.close())
def _api_without_key() -> OrderApi:
    return OrderApi(settings().api_url)


def api() -> OrderApi:
    """Return the API client with the viewer's key. Only the page's own thread has a viewer."""
    return _api_without_key().with_key(viewer_key())


def viewer_key() -> str | None:
    """Return the API key of the viewer's session, or None without one."""
    return viewers.key_of(st.context.cookies)


def now() -> datetime:
    return datetime.now(UTC)
