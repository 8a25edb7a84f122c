"""The dashboard calls the API with the user's key, and offers the requests that its role allows."""

import logging
import os
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from streamlit.runtime.context import ContextProxy

from dashboard.sections import running_load_tests
from dashboard.sign_in import session_cookie, sessions
from loadtest.bench.seed import seed, seed_recent
from loadtest.options import RunOptions
from loadtest.preflight import check_role
from orchestrator.errors import NotAllowed, UsageError
from orchestrator.security.key_hashing import Role
from orchestrator.settings import Settings
from tests.dashboard.conftest import Pages
from tests.dashboard.keyed_api import KeyedApi, keyed_api

REQUESTS = {"Cancel order", "Save address", "Approve", "Reject"}


@pytest.fixture(autouse=True)
def silence_logs():
    logging.getLogger("streamlit").setLevel(logging.ERROR)


@pytest.fixture
def api(page: Pages) -> Iterator[KeyedApi]:
    with keyed_api(int(os.environ["PORT_BASE"])) as api:
        yield api
        page.reset()


@pytest.fixture
def busy_url(postgres) -> Iterator[str]:
    with postgres.fresh_database() as url:
        seed(url, 20, days=1, progress=lambda _: None)
        seed_recent(url, finished=0, running=3)
        yield url


def sign_in(monkeypatch: pytest.MonkeyPatch, role: Role) -> str:
    """Give the pages the cookie of a user with this role; return the key."""
    key = f"key-of-a-{role.word}"
    cookies = {session_cookie(Settings.load()): sessions.create(key)}
    monkeypatch.setattr(ContextProxy, "cookies", property(lambda _: cookies))
    return key


@pytest.mark.parametrize("role", [Role.VIEWER, Role.CHAOS])
def test_a_page_calls_the_api_with_the_key_of_its_user(page: Pages, api, busy_url, monkeypatch, role):
    key = sign_in(monkeypatch, role)
    test = page.run("overview", busy_url)
    assert not test.exception
    assert {path for path, _ in api.requests} == {"/health", "/whoami", "/faults"}
    assert {used_key for _, used_key in api.requests} == {key}


@pytest.mark.parametrize(("role", "is_offered"), [(Role.VIEWER, False), (Role.OPERATOR, True)])
def test_requests_are_offered_to_operators(page: Pages, api, busy_url, monkeypatch, role, is_offered):
    sign_in(monkeypatch, role)
    order = page.run("orders", busy_url, order="seed-running-3")
    reviews = page.run("reviews", busy_url)
    for test, requests in ((order, REQUESTS), (reviews, {"Approve", "Reject"})):
        assert not test.exception
        labels = {button.label for button in test.button}
        assert labels & REQUESTS == (requests if is_offered else set())


def test_with_a_key_no_name_is_typed(page: Pages, api, busy_url, monkeypatch):
    names = {"Your name", "Cancelled by", "Changed by"}

    def offered() -> set[str]:
        tests = (page.run("reviews", busy_url), page.run("orders", busy_url, order="seed-running-3"))
        return {field.label for test in tests for field in test.text_input} & names

    sign_in(monkeypatch, Role.OPERATOR)
    assert offered() == set()
    monkeypatch.setattr(ContextProxy, "cookies", property(lambda _: {}))
    assert offered() == names


def test_a_viewer_cannot_start_a_load_test(page: Pages, api, busy_url, monkeypatch):
    key = sign_in(monkeypatch, Role.VIEWER)
    monkeypatch.setattr(
        running_load_tests, "processes", lambda: SimpleNamespace(running=list, start=pytest.fail)
    )
    test = page.run("load_tests", busy_url)
    next(button for button in test.button if button.label == "Start").click().run()
    (error,) = test.error
    assert error.value.replace("\\", "") == "This requires a key of role operator; your key has role viewer."
    assert ("/whoami", key) in api.requests


def test_a_load_test_with_faults_requires_the_chaos_role(page: Pages, api, busy_url, monkeypatch):
    monkeypatch.setenv("DATABASE_URL", busy_url)
    sign_in(monkeypatch, Role.OPERATOR)
    running_load_tests.require_role(Role.OPERATOR)
    with pytest.raises(NotAllowed, match="role chaos; your key has role operator"):
        running_load_tests.require_role(Role.CHAOS)


@pytest.mark.parametrize(
    ("role", "options", "needed"),
    [
        (Role.VIEWER, {}, "operator"),
        (Role.OPERATOR, {}, None),
        (Role.OPERATOR, {"faults": "lossy"}, "chaos"),
        (Role.CHAOS, {"faults": "lossy"}, None),
    ],
)
def test_the_run_checks_the_role_of_its_key_too(role, options, needed):
    given = RunOptions.parse({"rate": "3", "duration": "30s"} | options)
    if needed is None:
        check_role(role, given)
        return
    with pytest.raises(UsageError, match=f"needs a key of role {needed}; API_KEY has role {role.word}"):
        check_role(role, given)
