"""The cached-read helper."""

import pytest
import streamlit as st

from dashboard.data import clients
from dashboard.data.cached import cached


@pytest.fixture(autouse=True)
def no_database(monkeypatch):
    monkeypatch.setattr(clients, "database", lambda: "database")
    st.cache_data.clear()


def test_results_are_cached_by_function_and_arguments():
    calls = []

    def one(database, number):
        calls.append(("one", database, number))
        return number

    def other(database, number):
        calls.append(("other", database, number))
        return -number

    for _ in range(2):
        assert (cached(one)(1), cached(one)(2), cached(other)(1)) == (1, 2, -1)
    assert calls == [("one", "database", 1), ("one", "database", 2), ("other", "database", 1)]


def test_clear_deletes_the_results_of_one_function():
    calls = []

    def one(_):
        calls.append("one")

    def other(_):
        calls.append("other")

    for read in (one, other):
        cached(read)()
    cached(one).clear()
    for read in (one, other):
        cached(read)()
    assert calls == ["one", "other", "one"]
