"""Filters in the URL: a link reproduces a view, and an invalid link never shows more orders."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as some

from dashboard import filters
from dashboard.sections.orders_table import cursor_of, search_of
from db.read_models.latency import Selection
from orchestrator.errors import RequestMalformed


@given(some.dictionaries(some.sampled_from(list(filters.NAMES)), some.text()))
def test_an_invalid_query_raises_and_never_selects_more_orders(query):
    try:
        selection = filters.selection_of(query)
    except RequestMalformed:
        return
    assert sum(value is not None for value in vars(selection).values()) == sum(map(bool, query.values()))


@pytest.mark.parametrize(
    "query",
    [
        {"run": "my run"},
        {"run": "x" * 65},
        {"run": "a\n"},
        {"outcome": "nonsense"},
        {"faults": "no-profile"},
        {"since": "yesterday"},
        {"until": "0001-01-01T00:00+12:00"},
        {"until": "9999-12-31T23:59:59"},
        {"since": "1999-12-31T23:59"},
        {"range": "Last century"},
        {"range": "Last hour", "until": "2026-01-31T12:00"},
    ],
)
def test_invalid_parameters_are_rejected(query):
    with pytest.raises(RequestMalformed):
        filters.selection_of(query)


def test_a_range_is_relative_to_now():
    now = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)
    selection = filters.selection_of({"range": "Last 24 hours"}, now)
    assert (selection.since, selection.until) == (now - timedelta(days=1), None)


def test_a_selection_is_widened_to_whole_minutes():
    selection = Selection(
        since=datetime(2026, 1, 1, 12, 0, 30, tzinfo=UTC), until=datetime(2026, 1, 1, 12, 5, 1, tzinfo=UTC)
    )
    assert selection.since == datetime(2026, 1, 1, 12, 0, tzinfo=UTC)
    assert selection.until == datetime(2026, 1, 1, 12, 6, tzinfo=UTC)


def test_a_cursor_is_restored_from_the_url():
    at = datetime(2026, 1, 1, 12, 0, 0, 123000, tzinfo=UTC)
    search = search_of(" a ", "late", "", cursor_of({"accepted_at": at, "order_id": "x~y"}))
    assert (search.prefix, search.only_late, search.before) == ("a", True, (at, "x~y"))
    assert search_of("", "any", "", "nonsense").before is None
