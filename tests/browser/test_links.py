"""Addresses of the dashboard: times of any form, and what stays of an address on the way to another page."""

from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import Open
from tests.live import LiveApi

pytestmark = [pytest.mark.stack, pytest.mark.timeout(300)]


def go_to_latency(page: Page) -> None:
    """Open the page with its link. It has charts only if it accepts its address."""
    page.get_by_role("link", name="Latency").first.click()
    expect(page.get_by_role("heading", name="Histogram")).to_be_visible()


def test_a_filter_of_one_page_is_no_error_on_another(open_page: Open, live: LiveApi) -> None:
    order_id = live.start()
    live.finished(order_id)
    page = open_page(f"/orders?order={order_id}")
    go_to_latency(page)
    page = open_page(f"/orders?state=late&q=x&before=2026-01-31T12:00:00Z~{order_id}")
    expect(page.get_by_text("No matching orders")).to_be_visible()
    go_to_latency(page)


def test_a_time_with_an_offset_is_shown_in_utc_and_stays_in_the_address(
    open_page: Open, live: LiveApi
) -> None:
    live.finished(live.start())
    page = open_page("/latency?since=2040-01-01T02:00:00.5+02:00")
    expect(page.get_by_text("No finished orders")).to_be_visible()
    assert parse_qs(urlsplit(page.url).query) == {"since": ["2040-01-01T00:00"]}
    page.reload()
    expect(page.get_by_text("No finished orders")).to_be_visible()


def test_an_unknown_parameter_is_reported_and_removed(open_page: Open, live: LiveApi) -> None:
    live.finished(live.start())
    page = open_page("/latency?sinse=2040-01-01T00:00:00Z")
    expect(page.get_by_text("This page has no parameter 'sinse'")).to_be_visible()
    page.get_by_role("button", name="Remove filters").click()
    page.wait_for_url("**/latency")
    expect(page.get_by_text("Histogram")).to_be_visible()
