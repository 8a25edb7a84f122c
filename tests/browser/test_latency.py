"""The latency page in a browser: live refresh, relative ranges, and marks that open their order."""

from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import SIZES, Open, screenshot, wait_until_drawn
from tests.browser.test_dashboard import AXIS, metric
from tests.live import LiveApi, eventually

ORDERS = "plot => Math.round(10 ** plot._fullData[0].x.at(-1))"
"""The number of orders in the chart: its last point is the percentile of the last order but one."""

pytestmark = [pytest.mark.stack, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def slow_orders(live: LiveApi) -> list[str]:
    """Finished orders, the slowest first."""
    ids = [live.start(f"slow-{n}", run_id="slow") for n in range(4)]
    return sorted(ids, key=lambda order_id: -live.finished(order_id)["completion_ms"])


def open_latency(open_page: Open, address: str, theme: str = "light") -> Page:
    page = open_page(address, theme)
    page.locator(".st-key-by-percentile .js-plotly-plot:visible").wait_for()
    wait_until_drawn(page)
    return page


def test_a_live_page_with_a_relative_range_counts_new_orders(
    open_page: Open, live: LiveApi, slow_orders: list[str]
):
    page = open_latency(open_page, "/latency?range=Last+15+minutes")
    before = int(metric(page, "Orders").inner_text())
    live.finished(live.start())
    expect(metric(page, "Orders")).to_have_text(str(before + 1))
    assert parse_qs(urlsplit(page.url).query) == {"range": ["Last 15 minutes"]}


def test_a_zoom_survives_the_refresh(open_page: Open, live: LiveApi, slow_orders: list[str]):
    page = open_latency(open_page, "/latency")
    plot = page.locator(".st-key-by-percentile .js-plotly-plot:visible")
    box = page.locator(".st-key-by-percentile .nsewdrag:visible").first.bounding_box()
    assert box is not None
    before = plot.evaluate(AXIS)
    page.mouse.move(box["x"] + box["width"] * 0.3, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.7, box["y"] + box["height"] / 2, steps=8)
    page.mouse.up()
    wait_until_drawn(page)
    zoomed = plot.evaluate(AXIS)
    assert zoomed != before
    drawn = plot.evaluate(ORDERS)
    # The tenth order and those after it change the range of the axis.
    for order_id in [live.start() for _ in range(10)]:
        live.finished(order_id)
    eventually(lambda: plot.evaluate(ORDERS) >= drawn + 10, seconds=40)
    assert plot.evaluate(AXIS) == zoomed
    plot.locator(".nsewdrag").dblclick()
    eventually(lambda: plot.evaluate(AXIS)[1] >= 1_100)


def test_a_chart_fills_the_screen_and_returns_to_its_size(open_page: Open, slow_orders: list[str]):
    page = open_latency(open_page, "/latency")
    plot, size = page.locator(".st-key-histogram .js-plotly-plot"), "plot => plot._fullLayout.height"
    height = plot.evaluate(size)
    plot.hover()
    buttons = page.locator(".st-key-histogram .modebar [data-title]")
    titles = buttons.evaluate_all("buttons => buttons.map(button => button.dataset.title)")
    # None sends the chart to another server.
    assert titles == [
        "Download plot as a PNG", "Zoom", "Pan", "Zoom in", "Zoom out", "Autoscale", "Reset axes",
        "Full screen (leave with Esc)",
    ]  # fmt: skip
    buttons.last.click()
    eventually(lambda: plot.evaluate(size) == page.viewport_size["height"])
    page.evaluate("document.exitFullscreen()")
    eventually(lambda: plot.evaluate(size) == height)


def test_a_click_on_a_bar_opens_its_order(open_page: Open, slow_orders: list[str]):
    page = open_latency(open_page, "/latency?run=slow")
    bars = page.locator(".st-key-time-breakdown .js-plotly-plot:visible")
    bars.scroll_into_view_if_needed()
    # The review is the longest segment of each order; the first bar is that of the slowest order.
    bars.locator(".barlayer .trace").nth(2).locator("path").first.click(force=True)
    expect(page.get_by_role("heading", name=f"Order {slow_orders[0]}")).to_be_visible()
    assert parse_qs(urlsplit(page.url).query) == {"order": [slow_orders[0]]}


def test_a_link_below_the_bars_opens_an_order(open_page: Open, slow_orders: list[str]):
    page = open_latency(open_page, "/latency?run=slow")
    link = page.get_by_role("link", name=slow_orders[1])
    assert link.get_attribute("href") == f"orders?order={slow_orders[1]}"


@pytest.mark.parametrize("theme", SIZES)
def test_the_page_is_drawn_in_every_theme(open_page: Open, slow_orders: list[str], theme: str):
    page = open_latency(open_page, "/latency", theme)
    assert screenshot(page, f"latency-{theme}").stat().st_size > 10_000
