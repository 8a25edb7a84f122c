"""The page Overview: its links, and the restart of a killed component."""

import re
from contextlib import suppress
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import Page, TimeoutError, expect

from tests.browser.conftest import Open, wait_until_drawn
from tests.live import LiveApi

pytestmark = [pytest.mark.stack, pytest.mark.timeout(300)]

PLOT = ".st-key-in-flight .js-plotly-plot:visible"
BAR = f"{PLOT} .barlayer .point path"


def order_in_the_address(page: Page) -> str:
    page.wait_for_url(re.compile("/orders"))
    return parse_qs(urlsplit(page.url).query)["order"][0]


@pytest.fixture
def order_id(live: LiveApi):
    """An order in manual review."""
    order_id = live.start(review="manual")
    yield order_id
    live.signal(order_id, "cancel", reason="done", cancelled_by="test")


def click_on_the_first_bar(page: Page) -> None:
    box = page.locator(BAR).first.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 3, box["y"] + box["height"] / 2)
    # Plotly clicks on the mark below the pointer, which it finds after a moment.
    page.locator(".hovertext:visible").first.wait_for()
    page.mouse.down()
    page.mouse.up()


def test_a_click_on_a_bar_opens_the_order(open_page: Open, order_id: str):
    page = open_page("/")
    wait_until_drawn(page)
    page.locator(BAR).first.wait_for(state="attached")
    # Not `scroll_into_view_if_needed`: each refresh replaces the bar.
    page.locator(PLOT).evaluate("plot => plot.scrollIntoView({block: 'center'})")
    # A refresh between the press and the release of the button ends the click, so it is repeated.
    for _ in range(5):
        click_on_the_first_bar(page)
        with suppress(TimeoutError):
            page.wait_for_url(re.compile("/orders"), timeout=4_000)
            break
    assert order_in_the_address(page) == order_id
    expect(page.get_by_role("heading", name=f"Order {order_id}")).to_be_visible()


def test_an_order_id_is_a_link_that_the_keyboard_reaches(open_page: Open, order_id: str):
    page = open_page("/")
    link = page.locator(f"{PLOT} .ytick a").first
    link.wait_for()
    link.focus()
    page.keyboard.press("Enter")
    assert order_in_the_address(page) == order_id


def test_a_state_of_the_pipeline_opens_its_orders(open_page: Open, order_id: str):
    page = open_page("/")
    page.locator(".st-key-stage-in_review").get_by_role("link").click()
    page.wait_for_url(re.compile(r"/orders\?state=in_review"))
    expect(page.get_by_role("heading", name="Orders")).to_be_visible()
    expect(page.get_by_text("No matching orders")).to_have_count(0)


def test_the_restart_of_a_killed_worker_is_shown(open_page: Open, whole_stack):
    page = open_page("/")
    row = page.get_by_role("row", name=re.compile("order-worker-1"))
    expect(row).to_contain_text(re.compile(r"Up\s*\d+\s(s|min)\s*0$"))
    whole_stack.kill("order-worker-1")
    expect(row).to_contain_text(re.compile(r"Up\s*\d+\ss\s*1$"))
