"""Whoever looks asks the API with a key of their own, and is offered what that key is good for."""

import logging
import os
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from streamlit.runtime.context import ContextProxy

from dashboard import auth
from dashboard.sections import running_load_tests
from loadtest.bench.seed import seed, seed_now
from loadtest.options import RunOptions
from loadtest.preflight import check_role
from orchestrator.errors import NotAllowed, UsageError
from orchestrator.security.key_hashing import Role
from tests.dashboard.conftest import Pages
from tests.dashboard.keyed_api import KeyedApi, keyed_api

REQUESTS = {"Cancel the order", "Change the address", "Approve", "Reject"}


@pytest.fixture(autouse=True)
def quiet():
    logging.getLogger("streamlit").setLevel(logging.ERROR)


@pytest.fixture
def api(page: Pages) -> Iterator[KeyedApi]:
    with keyed_api(int(os.environ["PORT_BASE"])) as api:
        yield api
        page.forget()


@pytest.fixture
def busy_url(postgres) -> Iterator[str]:
    with postgres.fresh_database() as url:
        seed(url, 20, days=1, progress=lambda _: None)
        seed_now(url, finished=0, running=3)
        yield url


def come_in(monkeypatch: pytest.MonkeyPatch, role: Role) -> str:
    """Has the pages see the cookie of somebody with such a key; returns the key."""
    key = f"key-of-a-{role.word}"
    cookies = {auth.viewers.cookie: auth.viewers.create(key)}
    monkeypatch.setattr(ContextProxy, "cookies", property(lambda _: cookies))
    return key


@pytest.mark.parametrize("role", [Role.VIEWER, Role.CHAOS])
def test_a_page_asks_the_api_with_its_viewers_own_key(page: Pages, api, busy_url, monkeypatch, role):
    key = come_in(monkeypatch, role)
    test = page.run("overview", busy_url)
    assert not test.exception
    assert {path for path, _ in api.asked} == {"/health", "/metrics"}
    assert {asked_with for _, asked_with in api.asked} == {key}


@pytest.mark.parametrize(("role", "offered"), [(Role.VIEWER, False), (Role.OPERATOR, True)])
def test_requests_are_offered_to_those_who_may_make_them(
    page: Pages, api, busy_url, monkeypatch, role, offered
):
    come_in(monkeypatch, role)
    order = page.run("orders", busy_url, order="seed-flying-3")
    desk = page.run("reviews", busy_url)
    for test, requests in ((order, REQUESTS), (desk, {"Approve", "Reject"})):
        assert not test.exception
        labels = {button.label for button in test.button}
        assert labels & REQUESTS == (requests if offered else set())


def test_a_viewer_starts_and_stops_no_load_test(page: Pages, api, busy_url, monkeypatch):
    key = come_in(monkeypatch, Role.VIEWER)
    monkeypatch.setattr(
        running_load_tests, "runner", lambda: SimpleNamespace(running=list, start=pytest.fail)
    )
    test = page.run("load_tests", busy_url)
    next(button for button in test.button if button.label == "Start").click().run()
    (error,) = test.error
    assert error.value.replace("\\", "") == "This needs a key of role operator; yours is viewer."
    assert ("/whoami", key) in api.asked


def test_faults_in_a_run_need_the_key_for_them(page: Pages, api, busy_url, monkeypatch):
    monkeypatch.setenv("DATABASE_URL", busy_url)
    come_in(monkeypatch, Role.OPERATOR)
    running_load_tests.must_be(Role.OPERATOR)
    with pytest.raises(NotAllowed, match="role chaos; yours is operator"):
        running_load_tests.must_be(Role.CHAOS)


@pytest.mark.parametrize(
    ("role", "options", "needed"),
    [
        (Role.VIEWER, {}, "operator"),
        (Role.OPERATOR, {}, None),
        (Role.OPERATOR, {"faults": "lossy"}, "chaos"),
        (Role.CHAOS, {"faults": "lossy"}, None),
    ],
)
def test_the_run_itself_looks_at_its_key_too(role, options, needed):
    given = RunOptions.parse({"rate": "3", "duration": "30s"} | options)
    if needed is None:
        check_role(role, given)
        return
    with pytest.raises(UsageError, match=f"needs a key of role {needed}; API_KEY has role {role.word}"):
        check_role(role, given)
