"""Filters in the URL: a link reproduces a view, and an invalid link never shows more orders."""

import re
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as some
from starlette.applications import Starlette

from dashboard import filters, links
from dashboard.filters import cursor_of
from dashboard.sections.orders_table import search_of
from db.domain import State
from db.read_models.latency import Selection
from db.read_models.order_search import Search
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


@pytest.mark.parametrize(
    "text",
    [
        "2030-01-01T00:00:00Z",
        "2030-01-01t00:00:00z",
        "2030-01-01 00:00:00Z",
        "2030-01-01T00:00:00.000000000Z",
        "2030-01-01T02:00:00+02:00",
        # An unescaped + in a URL.
        "2030-01-01T02:00:00 02:00",
        "2029-12-31T18:30:00-05:30",
        "2030-01-01T00:00",
        "2030-01-01T00:00:00",
    ],
)
def test_every_rfc_3339_time_is_understood(text):
    assert filters.selection_of({"since": text}).since == datetime(2030, 1, 1, tzinfo=UTC)
    assert filters.check_query("latency", [("since", text)]) == {"since": text}


@pytest.mark.parametrize(
    ("page", "parameters", "message"),
    [
        ("latency", [("sinse", "2030-01-01T00:00:00Z")], "this page has no parameter 'sinse'; it has run, "),
        ("latency", [("run", "a"), ("run", "b")], "the parameter 'run' is given twice"),
        ("reviews", [("run", "a")], "this page has no parameter 'run'; it has none"),
        ("overview", [("window", "2 min")], "unknown time window: choose one of 1 min, "),
        ("orders", [("state", "shipped")], "unknown state: choose one of any, running, late, "),
        ("orders", [("run", "my run")], "a run id has"),
        ("orders", [("before", "nonsense")], "'before' must be the cursor of another page"),
        ("orders", [("before", "2030-01-01T00:00:00Z")], "'before' must be the cursor of another page"),
        ("load_tests", [("baseline", "my run")], "a run id has"),
        ("audit", [("run", "my run")], "a run id has"),
    ],
)
def test_an_unknown_repeated_or_invalid_parameter_is_reported(page, parameters, message):
    with pytest.raises(RequestMalformed, match=f"^{re.escape(message)}"):
        filters.check_query(page, parameters)


@pytest.mark.parametrize(
    ("path", "location"),
    [
        ("/latency?run=a&since=2030-01-01T02:00:30%2B02:00", "?run=a&since=2030-01-01T00%3A00"),
        ("/latency?since=2030-01-01T02:00:30+02:00", "?since=2030-01-01T00%3A00"),
        ("/latency?until=2030-01-01T00:00:00.5Z&run=b%20c", "?until=2030-01-01T00%3A01&run=b+c"),
        ("/latency?since=2030-01-01T00:00", None),
        ("/latency?since=yesterday&since=", None),
        ("/orders?q=2030-01-01T00:00:00Z", None),
    ],
)
async def test_an_address_with_a_time_leads_to_one_that_the_page_can_show(path, location):
    transport = httpx.ASGITransport(Starlette(routes=links.routes("")))
    async with httpx.AsyncClient(transport=transport, base_url="http://dashboard") as client:
        response = await client.get(path)
        assert (response.headers.get("location"), response.is_redirect) == (location, location is not None)
        again = await client.get(path, follow_redirects=True)
    assert (again.status_code, again.url.path) == (200, path.partition("?")[0])


@pytest.mark.parametrize("base_path", ["", "/dash"])
async def test_the_address_of_a_link_to_the_overview_leads_there(base_path):
    transport = httpx.ASGITransport(Starlette(routes=links.routes(base_path)))
    async with httpx.AsyncClient(transport=transport, base_url="http://dashboard") as client:
        response = await client.get(f"{base_path}/overview", follow_redirects=True)
    assert (response.status_code, response.url.path) == (200, f"{base_path}/")


@pytest.mark.parametrize(
    ("state", "search"),
    [
        ("any", Search()),
        ("running", Search(only_open=True)),
        ("charged", Search(state=State.CHARGED, only_open=True)),
        ("failed", Search(state=State.FAILED)),
        ("late", Search(only_late=True)),
    ],
)
def test_orders_are_filtered_by_state(state, search):
    filters.check_query("orders", [("state", state)])
    assert search_of("", state, "", "") == search


def test_an_empty_parameter_does_not_filter():
    assert filters.check_query("orders", [("state", ""), ("before", ""), ("run", "")])
    assert filters.selection_of({"since": "", "outcome": ""}) == Selection()


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
    search = search_of(" a ", "late", "", cursor_of(at, "x~y"))
    assert (search.prefix, search.only_late, search.before) == ("a", True, (at, "x~y"))
