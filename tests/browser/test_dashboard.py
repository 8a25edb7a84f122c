"""User actions on the dashboard, in a real browser against a real stack."""

import csv
import re
import time
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import psycopg
import pytest
from playwright.sync_api import Locator, Page, expect
from psycopg.rows import dict_row

from loadtest.charts.time_breakdown import SEGMENTS
from tests.browser.conftest import Open, screenshot, wait_for_reruns, wait_until_drawn
from tests.live import LiveApi, eventually

pytestmark = [pytest.mark.stack, pytest.mark.timeout(300)]

MARKUP = "<img src=x onerror=alert(1)> ![x](http://evil.invalid/x.png) **bold** $x$"
RUN_AUDIT = re.compile("^.*Run (audit|again)$")


def rows(url: str, query: str, **parameters: object) -> list[dict]:
    with psycopg.connect(url, row_factory=dict_row) as connection:
        return connection.execute(query, parameters).fetchall()


def open_start_form(page: Page) -> None:
    page.get_by_text("Start orders").click()
    page.get_by_label("Street").wait_for()


def metric(page: Page, label: str) -> Locator:
    """Return the value of a metric."""
    box = page.get_by_test_id("stMetric").filter(has_text=re.compile(f"^{label}"))
    return box.get_by_test_id("stMetricValue")


def test_an_order_started_in_the_form_completes(open_page: Open, live: LiveApi):
    page = open_page("/orders")
    open_start_form(page)
    page.get_by_label("Order id", exact=True).fill("from-the-form")
    page.get_by_label("Street").fill(MARKUP)
    page.get_by_role("button", name="Start", exact=True).click()
    expect(page.get_by_role("heading", name="Order from-the-form")).to_be_visible()
    expect(metric(page, "State")).to_have_text("completed")
    wait_until_drawn(page)
    assert live.status("from-the-form")["status"] == "completed"
    expect(page.locator(".js-plotly-plot")).to_have_count(1)
    link = page.get_by_role("link", name="Open in Temporal UI").get_attribute("href")
    assert link is not None
    assert "order-from-the-form" in link
    screenshot(page, "order-light")


def test_a_double_click_on_start_starts_one_order(open_page: Open, order_database_url: str):
    count = "select count(*) as orders from orders where order_id like 'web-%%'"
    (before,) = rows(order_database_url, count)
    page = open_page("/orders")
    open_start_form(page)
    page.get_by_role("button", name="Start", exact=True).dblclick()
    expect(page.get_by_role("heading", name="Order web-")).to_be_visible()
    expect(metric(page, "State")).to_have_text("completed")
    (after,) = rows(order_database_url, count)
    assert after["orders"] == before["orders"] + 1


def test_a_cancelled_order_has_no_buttons(open_page: Open, live: LiveApi):
    order_id = live.start(review="manual")
    page = open_page(f"/orders?order={order_id}")
    page.get_by_role("button", name="Cancel", exact=True).click()
    page.get_by_label("Reason").fill(MARKUP)
    page.get_by_role("button", name="Cancel order").click()
    expect(page.get_by_text("Cancellation accepted.")).to_be_visible()
    expect(metric(page, "State")).to_have_text("cancelled")
    wait_until_drawn(page)
    expect(page.get_by_role("button", name="Cancel", exact=True)).to_have_count(0)
    expect(page.get_by_role("button", name="Approve")).to_have_count(0)
    assert live.finished(order_id)["status"] == "cancelled"
    page.get_by_role("tab", name="Events").click()
    assert page.locator("img[src='x']").count() == 0


def test_an_address_is_changed(open_page: Open, live: LiveApi, order_database_url: str):
    order_id = live.start(review="manual")
    page = open_page(f"/orders?order={order_id}")
    page.get_by_role("button", name="Change address").click()
    page.get_by_label("Street").fill("99 New Road")
    page.get_by_role("button", name="Save address").click()
    expect(page.get_by_text("Address changed.")).to_be_visible()
    (row,) = rows(
        order_database_url,
        "select address ->> 'street' as street from orders where order_id = %(id)s",
        id=order_id,
    )
    assert row["street"] == "99 New Road"
    live.signal(order_id, "cancel", reason="done", cancelled_by="test")


def test_an_address_change_keeps_a_change_from_elsewhere(
    open_page: Open, live: LiveApi, order_database_url: str
):
    order_id = live.start(review="manual")
    page = open_page(f"/orders?order={order_id}")
    # Without refresh, the form shows the replaced address.
    page.get_by_text("Live", exact=True).click()
    wait_until_drawn(page)
    change = {"street": "7 Other Road", "city": "Springfield", "state": "IL", "zip": "62701"}
    assert live.signal(order_id, "update-address", new_address=change, updated_by="phone").status_code == 200
    page.get_by_role("button", name="Change address").click()
    page.get_by_label("Zip").fill("10001")
    page.get_by_role("button", name="Save address").click()
    expect(page.get_by_text("The address has changed: it has version 2, not 1.")).to_be_visible()
    expect(page.get_by_label("Street")).to_have_value("7 Other Road")
    page.get_by_label("Zip").fill("10001")
    page.get_by_role("button", name="Save address").click()
    expect(page.get_by_text("Address changed.")).to_be_visible()
    (row,) = rows(order_database_url, "select address from orders where order_id = %(id)s", id=order_id)
    assert (row["address"]["street"], row["address"]["zip"]) == ("7 Other Road", "10001")
    live.signal(order_id, "cancel", reason="done", cancelled_by="test")


def test_an_order_is_approved_on_the_reviews_page(open_page: Open, live: LiveApi):
    page = open_page("/reviews")
    wait_until_drawn(page)
    order_id = live.start(review="manual")
    card = page.locator(f".st-key-card-{order_id}")
    card.wait_for()
    expect(card.get_by_text("s left")).to_be_visible()
    screenshot(page, "reviews-waiting-light")
    card.get_by_role("button", name="Approve").click()
    # The card stays for some seconds, so that a second click does not decide the next order.
    expect(card.get_by_text("Approved.")).to_be_visible()
    expect(card.get_by_role("button")).to_have_count(0)
    assert live.finished(order_id)["status"] == "completed"
    expect(card).to_have_count(0)


def test_a_double_click_approves_one_order(open_page: Open, live: LiveApi):
    page = open_page("/reviews")
    ids = [live.start(review="manual") for _ in range(2)]
    cards = [page.locator(f".st-key-card-{order_id}") for order_id in ids]
    for card in cards:
        card.get_by_role("button", name="Approve").wait_for()
    button = cards[0].get_by_role("button", name="Approve").bounding_box()
    assert button is not None
    x, y = button["x"] + button["width"] / 2, button["y"] + button["height"] / 2
    page.mouse.click(x, y)
    expect(cards[0].get_by_text("Approved.")).to_be_visible()
    page.mouse.click(x, y)
    assert live.finished(ids[0])["status"] == "completed"
    expect(cards[0]).to_have_count(0)
    assert live.status(ids[1])["state"] == "in_review"
    live.signal(ids[1], "reject", reviewer="test", reason="test is over")
    expect(cards[1].get_by_text("No longer awaiting a review.")).to_be_visible()


def test_a_request_that_is_too_late_shows_an_error(open_page: Open, live: LiveApi):
    order_id = live.start(review="manual")
    page = open_page(f"/orders?order={order_id}")
    # A page that is not live still offers requests that are no longer possible.
    page.get_by_text("Live", exact=True).click()
    wait_until_drawn(page)
    page.get_by_role("button", name="Cancel", exact=True).click()
    page.get_by_label("Reason").wait_for()
    live.signal(order_id, "reject", reviewer="another", reason="test")
    page.get_by_role("button", name="Cancel order").click()
    expect(page.get_by_text(re.compile("too late", re.IGNORECASE)).first).to_be_visible()


@pytest.fixture(scope="module")
def a_run(live: LiveApi) -> str:
    """The id of a run of eight finished orders, two of them cancelled."""
    ids = [live.start(f"shown-{n}", run_id="shown") for n in range(8)]
    for order_id in ids[:2]:
        live.signal(order_id, "cancel", reason="=cmd()", cancelled_by="test")
    for order_id in ids:
        live.finished(order_id)
    return "shown"


def test_the_url_contains_the_filters(open_page: Open, a_run: str):
    page = open_page(f"/latency?run={a_run}")
    wait_until_drawn(page)
    assert metric(page, "Orders").inner_text() == "8"
    page.get_by_role("combobox", name="Outcome").click()
    page.get_by_role("option", name="cancelled").click()
    expect(page.get_by_role("link", name="Download CSV (2 orders)")).to_be_visible()
    wait_until_drawn(page)
    query = parse_qs(urlsplit(page.url).query)
    assert (query["run"], query["outcome"]) == ([a_run], ["cancelled"])
    page.get_by_role("combobox", name="Time range").click()
    page.get_by_role("option", name="Last hour").click()
    page.wait_for_url(re.compile("range="))
    wait_until_drawn(page)
    again = open_page(page.url)
    wait_until_drawn(again)
    assert metric(again, "Orders").inner_text() == metric(page, "Orders").inner_text() == "2"
    for each in (page, again):
        expect(each.get_by_role("combobox", name="Time range")).to_have_value("Last hour")


def test_the_csv_equals_the_database(open_page: Open, a_run: str, order_database_url: str):
    page = open_page(f"/latency?run={a_run}")
    wait_until_drawn(page)
    href = page.get_by_role("link", name="Download CSV (8 orders)").get_attribute("href")
    with page.expect_download() as download:
        page.evaluate("(href) => { const a = document.createElement('a'); a.href = href; a.click(); }", href)
    with Path(download.value.path()).open(newline="", encoding="utf-8") as file:
        found = list(csv.DictReader(file))
    truth = rows(
        order_database_url,
        "select * from orders where run_id = %(run)s order by accepted_at, order_id",
        run=a_run,
    )
    assert len(found) == len(truth) == 8
    for cells, row in zip(found, truth, strict=True):
        assert cells["order_id"] == row["order_id"]
        assert cells["outcome"] == row["state"]
        for name in ("requested_at", "accepted_at", "finished_at"):
            time_in_csv = datetime.fromisoformat(cells[name])
            assert abs((time_in_csv - row[name].astimezone(UTC)).total_seconds()) < 0.001
        for name in ("end_to_end", "completion", "ingress", *SEGMENTS):
            assert int(cells[f"{name}_ms"]) == row[f"{name}_ms"]
        assert sum(int(cells[f"{segment}_ms"]) for segment in SEGMENTS) == int(cells["completion_ms"])
        assert cells["within_limit"] == str(row["within_limit"]).lower()


def test_tables_have_no_unescaped_csv_download(open_page: Open, a_run: str):
    page = open_page(f"/orders?order={a_run}-0")
    wait_until_drawn(page)
    page.get_by_role("tab", name="Events").click()
    for table in page.get_by_test_id("stDataFrame").filter(visible=True).all():
        table.hover()
        toolbar = page.get_by_test_id("stElementToolbar").filter(visible=True)
        toolbar.get_by_role("button", name="Search").first.wait_for()
        expect(toolbar.get_by_role("button", name=re.compile("Download", re.IGNORECASE))).to_have_count(0)


def test_a_load_test_is_started_and_its_verdict_shown(open_page: Open):
    page = open_page("/load_tests")
    page.get_by_text("Start a load test").click()
    page.get_by_role("textbox", name="Rate").fill("2")
    page.get_by_role("textbox", name="Duration").fill("5s")
    page.get_by_role("textbox", name="SLO target").fill("0.5")
    page.get_by_role("textbox", name="Run id").fill("browser-run")
    page.get_by_role("button", name="Start", exact=True).click()
    expect(page.get_by_text("browser-run").first).to_be_visible()
    expect(page.get_by_text(re.compile("The run ended with exit code"))).to_be_visible(timeout=120_000)
    screenshot(page, "load_tests-ended-light")
    page.get_by_role("button", name="Show verdict").click()
    expect(page.get_by_text("invariants", exact=True)).to_be_visible()
    wait_until_drawn(page)
    assert parse_qs(urlsplit(page.url).query)["run"] == ["browser-run"]
    for each in (page, open_page(page.url)):
        expect(each.get_by_role("button", name="summary.md")).to_be_visible()
    screenshot(page, "load_tests-verdict-light")
    page.get_by_text("Playback", exact=True).click()
    playback = page.frame_locator("iframe")
    playback.get_by_role("button", name="Play").click()
    expect(playback.locator("[data-part=counts]")).to_contain_text("in flight")
    playback.get_by_role("slider", name="Time of the run").press("End")
    expect(playback.locator("[data-part=counts]")).to_contain_text("0 in flight")


def test_a_load_test_can_be_stopped(open_page: Open):
    page = open_page("/load_tests")
    page.get_by_text("Start a load test").click()
    page.get_by_role("textbox", name="Rate").fill("1")
    page.get_by_role("textbox", name="Duration").fill("120s")
    page.get_by_role("textbox", name="Run id").fill("stopped-run")
    page.get_by_role("button", name="Start", exact=True).click()
    page.get_by_role("button", name="Stop", exact=True).click()
    expect(page.get_by_text(re.compile("The run ended with exit code"))).to_be_visible(timeout=90_000)


def test_the_audit_shows_the_status_of_each_invariant(open_page: Open, a_run: str):
    page = open_page(f"/audit?run={a_run}")
    page.get_by_role("button", name=RUN_AUDIT).click()
    expect(page.locator(".stMarkdownBadge").filter(has_text="holds")).to_have_count(9)
    screenshot(page, "audit-done-light")


# A list closes when its page scrolls. The event of a scroll comes with the next frame: on a busy machine, a
# click of a test can be faster.
SCROLL_TO = """each => new Promise((resolve) => {
    each.scrollIntoView({ block: "center" });
    requestAnimationFrame(() => requestAnimationFrame(resolve));
})"""


@pytest.mark.parametrize(
    ("path", "list_name", "option", "reruns"),
    [("/", "Profile", "slow", 8), ("/latency", "Outcome", "cancelled", 1)],
)
def test_a_list_opens_at_the_first_click_and_stays_open(
    open_page: Open, a_run: str, path: str, list_name: str, option: str, reruns: int
):
    for _ in range(3):
        page = open_page(path)
        shown = page.get_by_role("combobox", name=list_name)
        shown.wait_for(state="attached")
        shown.evaluate(SCROLL_TO)
        box = shown.bounding_box()
        assert box is not None
        # Not `click`, which waits until the page stops moving.
        page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        expect(page.get_by_role("option", name=option)).to_be_visible()
        wait_for_reruns(page, reruns)
        expect(page.get_by_role("option", name=option)).to_be_visible()


def test_a_fault_profile_is_applied_and_shown(open_page: Open, live: LiveApi):
    page = open_page("/")
    profile = page.get_by_role("combobox", name="Profile")
    # A list closes when its page scrolls, also by the event of a scroll that ended before the click.
    profile.scroll_into_view_if_needed()
    wait_until_drawn(page)
    profile.click()
    page.get_by_role("option", name="slow").click()
    page.get_by_role("button", name="Apply fault profile").click()
    page.get_by_role("button", name="Apply", exact=True).click()
    expect(page.get_by_text(re.compile("Active profile: slow"))).to_be_visible()
    assert live.http.get("/faults").json()["profile"] == "slow"
    live.http.put("/faults", json={"profile": "none"})


AXIS = "plot => plot._fullLayout.xaxis.range.map(end => Math.round(end * 1000))"


@pytest.fixture
def two_runs(order_database_url: str) -> tuple[str, str]:
    """Two stored runs with a verdict."""
    names = ("zoomed-1", "zoomed-2")
    with psycopg.connect(order_database_url) as connection:
        for n, name in enumerate(names):
            connection.execute(
                "insert into runs (run_id, scenario, ended_at, completion_ms, late_orders, counted_orders)"
                " select %s, 'mixed', now(), array_agg(2000 + %s * i), 0, 200 from generate_series(1, 200) i"
                " on conflict do nothing",
                (name, 10 + 5 * n),
            )
    return names


def test_a_zoom_survives_a_change_of_the_run(open_page: Open, two_runs: tuple[str, str]):
    one, other = two_runs
    page = open_page(f"/load_tests?run={one}&baseline={other}")
    plot = page.locator(".st-key-comparison .js-plotly-plot:visible")
    plot.wait_for()
    wait_until_drawn(page)
    plot.scroll_into_view_if_needed()
    before = plot.evaluate(AXIS)
    box = page.locator(".st-key-comparison .nsewdrag:visible").first.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] * 0.3, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.6, box["y"] + box["height"] / 2, steps=8)
    page.mouse.up()
    eventually(lambda: plot.evaluate(AXIS) != before)
    zoomed = plot.evaluate(AXIS)
    for action, done in (("Pin as baseline", "Unpin baseline"), ("Unpin baseline", "Pin as baseline")):
        page.get_by_role("button", name=action).click()
        expect(page.get_by_role("button", name=done)).to_be_visible()
        wait_until_drawn(page)
        assert plot.evaluate(AXIS) == zoomed


def positions(page: Page) -> list[int]:
    found: list[int] = page.evaluate(
        "() => [...document.querySelectorAll('h1, h2, h3, .js-plotly-plot')]"
        ".map(each => each.getBoundingClientRect()).filter(place => place.height > 0)"
        ".map(place => Math.round(place.top))"
    )
    return found


def test_the_layout_is_stable_while_orders_start_and_finish(open_page: Open, live: LiveApi):
    page = open_page("/")
    wait_until_drawn(page)
    wait_for_reruns(page, 8)
    before = positions(page)
    running = {live.start(f"stable-{n}-{int(time.time())}") for n in range(6)}
    while running:
        wait_for_reruns(page, 1)
        assert positions(page) == before
        running = {each for each in running if live.status(each)["status"] == "running"}


def test_a_page_that_is_not_live_does_not_change(open_page: Open, live: LiveApi):
    page = open_page("/")
    wait_until_drawn(page)
    page.get_by_text("Live", exact=True).click()
    wait_until_drawn(page)
    value = metric(page, "In flight")
    before = value.inner_text()
    order_id = live.start(review="manual")
    expect(metric(open_page("/"), "In flight")).not_to_have_text(before)
    assert value.inner_text() == before
    page.get_by_text("Live", exact=True).click()
    expect(value).not_to_have_text(before)
    live.signal(order_id, "cancel", reason="done", cancelled_by="test")


def test_pages_recover_after_an_api_outage(open_page: Open, whole_stack, live: LiveApi):
    page = open_page("/orders")
    whole_stack.stop("api")
    try:
        open_start_form(page)
        page.get_by_role("button", name="Start", exact=True).click()
        expect(page.get_by_text("No connection to the API").first).to_be_visible()
        overview = open_page("/")
        expect(overview.get_by_text("Unknown: the API is not responding").first).to_be_visible()
    finally:
        whole_stack.start("api")
    eventually(lambda: live.http.get("/health").status_code == 200)
