"""Every page without a mouse: each control is reached, shows that it has the focus, and is activated."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.frozen import ORDER, FrozenDashboard
from tests.browser.views import VIEWS, View, open_view, picture

pytestmark = pytest.mark.timeout(120)

MARK_CONTROLS = Path(__file__).with_name("mark_controls.js").read_text(encoding="utf-8")

FOCUSED = """() => {
    const element = document.activeElement, look = element.dataset.look;
    if (element === document.body) return null;
    return [nameOf(element), look === undefined || lookOf(element) !== look];
}"""


@pytest.fixture
def opened(request: pytest.FixtureRequest, browser: Browser, frozen: FrozenDashboard) -> Iterator[View]:
    with open_view(browser, frozen, request.param) as view:
        yield view


@pytest.mark.parametrize("opened", VIEWS, indirect=True)
def test_tab_reaches_every_control_and_shows_the_focus(opened: View):
    page = opened.page
    # A refresh replaces controls, and the focus is lost with them.
    switch_off_live(page)
    controls = set(page.evaluate(MARK_CONTROLS))
    unnamed = {name for name in controls if name.endswith(" ")}
    assert unnamed == set(), "a screen reader has no name for them"
    reached, invisible = set(), set()
    # In a table, the key first moves from cell to cell.
    for _ in range(3 * len(controls) + 60):
        if controls <= reached:
            break
        page.keyboard.press("Tab")
        focused = page.evaluate(FOCUSED)
        if focused is None:
            continue
        reached.add(focused[0])
        if not focused[1]:
            invisible.add(focused[0])
    assert controls - reached == set(), "Tab does not reach them"
    assert invisible == set(), "they look the same with the focus"


def switch_off_live(page: Page) -> None:
    switch = page.get_by_role("checkbox", name="Live")
    if switch.count():
        switch.press("Space")
        expect(switch).not_to_be_checked()
        picture(page)


@pytest.mark.parametrize("opened", ["overview"], indirect=True)
def test_enter_follows_a_link(opened: View):
    page = opened.page
    link = page.get_by_role("link", name="Latency").first
    tab_to(page, link.evaluate("each => each.href"))
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Latency", level=1)).to_be_visible()


@pytest.mark.parametrize("opened", ["stage"], indirect=True)
def test_the_link_of_the_stage_leads_to_the_overview(opened: View, frozen: FrozenDashboard):
    page = opened.page
    tab_to(page, f"{frozen.url}/overview")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Overview", level=1)).to_be_visible()
    page.wait_for_url(f"{frozen.url}/")


@pytest.mark.parametrize("opened", ["order"], indirect=True)
def test_enter_activates_a_button(opened: View):
    page = opened.page
    tab_to(page, "All orders")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Orders", level=1)).to_be_visible()
    assert ORDER not in page.url


def tab_to(page: Page, target: str) -> None:
    """Press Tab until the element with this address or text has the focus."""
    for _ in range(60):
        page.keyboard.press("Tab")
        address, text = page.evaluate(
            "[document.activeElement.href ?? null, document.activeElement.textContent]"
        )
        if address == target or (text or "").endswith(target):
            return
    raise AssertionError(f"Tab does not reach {target}")
