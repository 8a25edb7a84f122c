"""Pages that stay open: a lost connection, a restarted dashboard, a page that is left during a refresh."""

from collections.abc import Iterator

import psycopg
import pytest
from playwright.sync_api import Browser, Page, WebSocketRoute, expect

from tests.browser.conftest import PATIENCE_MS
from tests.browser.frozen import FrozenDashboard
from tests.browser.views import picture
from tests.live import eventually

pytestmark = pytest.mark.timeout(120)

REFRESHES = 3
NO_FRAGMENT = "find fragment"


class Connections:
    """The WebSocket connections of a page, which a test can cut."""

    def __init__(self, page: Page) -> None:
        self.opened = 0
        self.messages = 0
        self._current: WebSocketRoute | None = None
        page.route_web_socket("**/_stcore/stream", self._connect)

    def cut(self) -> None:
        assert self._current is not None
        self._current.close(code=1001)

    def _connect(self, route: WebSocketRoute) -> None:
        server = route.connect_to_server()
        self.opened, self._current = self.opened + 1, route
        server.on_message(lambda message: self._forward(route, message))

    def _forward(self, route: WebSocketRoute, message: str | bytes) -> None:
        self.messages += 1
        route.send(message)


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(PATIENCE_MS)
    yield context.new_page()
    context.close()


def open_overview(page: Page, frozen: FrozenDashboard) -> None:
    page.goto(frozen.url)
    expect(page.get_by_role("heading", name="In flight")).to_be_visible()
    picture(page)


def wait_for_refreshes(page: Page, connections: Connections) -> None:
    """Wait until the dashboard has sent several refreshes. Each fragment sends two messages or more."""
    before = connections.messages

    def refreshed() -> bool:
        page.wait_for_timeout(100)
        return connections.messages > before + 10 * REFRESHES

    eventually(refreshed, seconds=40)


def check_overview(page: Page, frozen: FrozenDashboard) -> None:
    """Check that the page is complete and has no error."""
    expect(page.get_by_role("heading", name="In flight")).to_be_visible()
    picture(page)
    expect(page.get_by_role("heading", name="Pipeline")).to_have_count(1)
    expect(page.get_by_role("dialog")).to_have_count(0)
    for word in (NO_FRAGMENT, "Connection error", "Traceback"):
        expect(page.get_by_text(word)).to_have_count(0)
    assert NO_FRAGMENT not in frozen.log.read_text()


def test_a_page_continues_after_its_connection_broke(page: Page, frozen: FrozenDashboard):
    connections = Connections(page)
    open_overview(page, frozen)
    connections.cut()
    eventually(lambda: page.wait_for_timeout(100) or connections.opened == 2, seconds=30)
    wait_for_refreshes(page, connections)
    check_overview(page, frozen)


def test_a_page_continues_after_its_session_has_expired(page: Page, frozen: FrozenDashboard):
    """After a long idle time, the dashboard has forgotten the session; a restart has the same effect."""
    connections = Connections(page)
    open_overview(page, frozen)
    frozen.stop()
    frozen.start()
    eventually(lambda: page.wait_for_timeout(100) or connections.opened >= 2, seconds=60)
    wait_for_refreshes(page, connections)
    check_overview(page, frozen)


def test_a_page_that_is_left_during_a_refresh_leaves_nothing_behind(page: Page, frozen: FrozenDashboard):
    connections = Connections(page)
    open_overview(page, frozen)
    with psycopg.connect(frozen.database_url) as locking:
        locking.execute("lock table orders in access exclusive mode")
        eventually(lambda: page.wait_for_timeout(100) or waits_for_a_lock(frozen.database_url), seconds=20)
        page.get_by_role("link", name="Load tests").first.click()
        expect(page.get_by_role("heading", name="Load tests", level=1)).to_be_visible()
    expect(page.get_by_role("heading", name="Stored runs")).to_be_visible()
    wait_for_refreshes(page, connections)
    for name in ("Overview", "Pipeline", "In flight", "Components"):
        expect(page.get_by_role("heading", name=name, exact=True)).to_have_count(0)
    expect(page.get_by_test_id("stMetric")).to_have_count(0)
    expect(page.get_by_test_id("stAlert")).to_have_count(0)


def waits_for_a_lock(url: str) -> bool:
    with psycopg.connect(url) as connection:
        row = connection.execute(
            "select count(*) from pg_stat_activity"
            " where wait_event_type = 'Lock' and datname = current_database()"
        ).fetchone()
        return row is not None and row[0] > 0
