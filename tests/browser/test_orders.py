"""The orders page in a browser: the table, bulk cancellation, the start form, and the page of an order."""

import re
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.conftest import SIZES, Open, screenshot, wait_until_drawn
from tests.live import LiveApi

pytestmark = [pytest.mark.stack, pytest.mark.timeout(300)]

HEADER_HEIGHT = ROW_HEIGHT = 35
"""Of a table, in pixels."""


@pytest.fixture(scope="module")
def a_run(live: LiveApi) -> str:
    """The id of a run of six finished orders."""
    ids = [live.start(f"listed-{n}", run_id="listed") for n in range(6)]
    for order_id in ids:
        live.finished(order_id)
    return "listed"


def table(page: Page) -> Locator:
    return page.locator("[class*=st-key-orders-table-]").get_by_test_id("stDataFrameResizable")


def click_row(page: Page, row: int, x: int) -> None:
    """Click in a row of the table of orders, which is a canvas."""
    table(page).click(position={"x": x, "y": HEADER_HEIGHT + row * ROW_HEIGHT + ROW_HEIGHT / 2})


def select_rows(page: Page, count: int) -> None:
    """Select the first rows at their left edge."""
    for row in range(count):
        click_row(page, row, x=18)
        wait_until_drawn(page)


def test_a_click_on_a_row_opens_its_order(open_page: Open, a_run: str):
    page = open_page(f"/orders?run={a_run}&q=listed-3")
    wait_until_drawn(page)
    click_row(page, 0, x=300)
    expect(page.get_by_role("heading", name="Order listed-3")).to_be_visible()
    expect(page.get_by_text(re.compile(r"^Completed in \d+\.\d{3} s: "))).to_be_visible()
    page.get_by_role("button", name="All orders").click()
    expect(table(page)).to_be_visible()
    query = parse_qs(urlsplit(page.url).query)
    assert query == {"run": [a_run], "q": ["listed-3"]}


def test_the_tab_key_enters_the_table_without_opening_an_order(open_page: Open, a_run: str):
    page = open_page(f"/orders?run={a_run}")
    wait_until_drawn(page)
    page.get_by_role("button", name="Refresh").focus()
    for _ in range(8):
        page.keyboard.press("Tab")
        if page.evaluate("() => document.activeElement.tagName") == "CANVAS":
            break
    assert page.evaluate("() => document.activeElement.tagName") == "CANVAS"
    wait_until_drawn(page)
    expect(page.get_by_role("heading", name="Orders", exact=True)).to_be_visible()
    assert parse_qs(urlsplit(page.url).query) == {"run": [a_run]}


def test_a_click_never_opens_another_order_than_the_one_below_the_pointer(open_page: Open, a_run: str):
    page = open_page(f"/orders?run={a_run}")
    wait_until_drawn(page)
    # The click ends the input of the filter, so the table is about to have one row.
    page.get_by_role("textbox", name="Order id starts with").fill("listed-3")
    click_row(page, 0, x=300)
    page.wait_for_url(re.compile("q=listed-3|order="))
    wait_until_drawn(page)
    opened = parse_qs(urlsplit(page.url).query).get("order")
    assert opened in (None, ["listed-5"]), "the newest order was in the first row"
    expect(page.get_by_test_id("stException")).to_have_count(0)


def test_a_filter_that_cannot_be_read_is_removed(open_page: Open, a_run: str):
    page = open_page(f"/orders?run={a_run}")
    wait_until_drawn(page)
    run = page.get_by_role("textbox", name="Run", exact=True)
    run.fill("my run")
    run.press("Enter")
    expect(page.get_by_text("A run id has 1 to 64 letters")).to_be_visible()
    page.get_by_role("button", name="Remove filters").click()
    expect(table(page)).to_be_visible()
    expect(run).to_have_value("")
    assert urlsplit(page.url).query == ""


def test_a_link_selects_what_it_names_only(open_page: Open, a_run: str):
    page = open_page(f"/orders?run={a_run}")
    wait_until_drawn(page)
    page.get_by_role("link", name="Overview").click()
    page.get_by_role("link", name=re.compile("^Completed")).first.click()
    expect(page.get_by_role("heading", name="Orders", exact=True)).to_be_visible()
    wait_until_drawn(page)
    assert parse_qs(urlsplit(page.url).query) == {"state": ["completed"]}


def test_the_keyboard_opens_an_order(open_page: Open, a_run: str):
    page = open_page(f"/orders?run={a_run}")
    wait_until_drawn(page)
    table(page).click(position={"x": 70, "y": HEADER_HEIGHT + ROW_HEIGHT / 2})
    for key in ("ArrowDown", "ArrowDown", "ArrowRight"):
        page.keyboard.press(key)
        wait_until_drawn(page)
    expect(page.get_by_role("heading", name="Order listed-3")).to_be_visible()


def test_selected_orders_are_cancelled(open_page: Open, live: LiveApi, a_run: str):
    ids = [live.start(f"many-{n}", review="manual") for n in range(3)]
    live.signal(ids[0], "cancel", reason="first", cancelled_by="test")
    live.finished(ids[0])
    page = open_page("/orders?q=many-")
    wait_until_drawn(page)
    select_rows(page, 3)
    page.get_by_role("button", name="Cancel 3 selected orders").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_text("2 of 3 can be cancelled now.")).to_be_visible()
    reason = dialog.get_by_role("textbox", name="Reason")
    reason.fill(" ")
    dialog.get_by_role("button", name="Cancel 2 orders").click()
    expect(dialog.get_by_text("Reason is empty.")).to_be_visible()
    reason.fill("sold out")
    dialog.get_by_role("button", name="Cancel 2 orders").click()
    expect(page.get_by_text("Cancelled 2 of 2 orders.")).to_be_visible()
    assert {live.finished(order_id)["status"] for order_id in ids} == {"cancelled"}
    page.get_by_role("button", name="Close").click()
    expect(page.get_by_text("Cancelled 2 of 2 orders.")).to_have_count(0)


def test_a_cancellation_starts_although_an_order_has_ended_since_its_preview(open_page: Open, live: LiveApi):
    ids = [live.start(f"ending-{n}", review="manual") for n in range(2)]
    for order_id in ids:
        live.in_state(order_id, "in_review")
    page = open_page("/orders?q=ending-")
    wait_until_drawn(page)
    select_rows(page, 2)
    page.get_by_role("button", name="Cancel 2 selected orders").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_text("2 of 2 can be cancelled now.")).to_be_visible()
    live.signal(ids[0], "reject", reviewer="test", reason="meanwhile")
    live.finished(ids[0])
    dialog.get_by_role("button", name="Cancel 2 orders").click()
    expect(page.get_by_text("Cancelled 1 of 2 orders.")).to_be_visible()
    expect(page.get_by_text("Too late: the order is cancelled")).to_be_visible()
    expect(dialog).to_have_count(0)


def test_a_batch_shows_its_result(open_page: Open):
    page = open_page("/orders?q=batch-")
    page.get_by_text("Start orders").click()
    page.get_by_label("Order id", exact=True).fill("batch")
    page.get_by_role("spinbutton", name="Number of orders").fill("12")
    page.get_by_role("button", name="Start", exact=True).click()
    expect(page.get_by_text("Started 12 of 12 orders.")).to_be_visible()
    wait_until_drawn(page)
    screenshot(page, "orders-batch-light")


def test_an_invalid_field_has_its_error_below_it(open_page: Open):
    page = open_page("/orders")
    page.get_by_text("Start orders").click()
    page.get_by_label("City").fill("")
    page.get_by_label("ZIP").fill("")
    page.get_by_role("button", name="Start", exact=True).click()
    expect(page.get_by_text("City is empty.")).to_be_visible()
    page.get_by_label("City").fill("Springfield")
    page.get_by_role("button", name="Start", exact=True).click()
    message = page.get_by_text(re.compile("Zip is missing"))
    expect(message).to_be_visible()
    expect(page.get_by_text("City is empty.")).to_have_count(0)
    field, text = page.get_by_label("ZIP").bounding_box(), message.bounding_box()
    assert field is not None
    assert text is not None
    assert abs(text["x"] - field["x"]) < 40
    assert 0 < text["y"] - field["y"] < 80
    wait_until_drawn(page)
    screenshot(page, "orders-errors-light")


def test_the_address_form_shows_an_error_below_its_field(open_page: Open, live: LiveApi):
    order_id = live.start(review="manual")
    page = open_page(f"/orders?order={order_id}")
    page.get_by_role("button", name="Change address").click()
    page.get_by_label("City").fill("")
    page.get_by_role("button", name="Save address").click()
    form = page.get_by_test_id("stForm").filter(has_text="Save address")
    expect(form.get_by_text("City is empty.")).to_be_visible()
    live.signal(order_id, "cancel", reason="done", cancelled_by="test")


@pytest.mark.parametrize("theme", SIZES)
def test_an_order_is_compared_with_the_median_order_of_its_run(open_page: Open, a_run: str, theme: str):
    page = open_page(f"/orders?order={a_run}-1", theme)
    wait_until_drawn(page)
    for name, address in (("Run", f"load_tests?run={a_run}"), ("Audit of the run", f"audit?run={a_run}")):
        assert page.get_by_role("link", name=name, exact=True).get_attribute("href") == address
    page.get_by_role("tab", name="Median order of the run").click()
    comparison = page.get_by_text("The order of the run with the median completion time")
    expect(comparison.or_(page.get_by_text("This order has the median"))).to_be_visible()
    wait_until_drawn(page)
    screenshot(page, f"order-compared-{theme}")


@pytest.mark.parametrize("theme", SIZES)
def test_the_table_has_a_chip_for_each_state(open_page: Open, live: LiveApi, a_run: str, theme: str):
    waiting = live.start(f"waiting-{theme}", review="manual")
    page = open_page("/orders", theme)
    wait_until_drawn(page)
    expect(table(page)).to_be_visible()
    screenshot(page, f"orders-{theme}")
    live.signal(waiting, "cancel", reason="done", cancelled_by="test")
