"""What people do at the dashboard, in a real browser before a real stack."""

import csv
import re
import time
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import psycopg
import pytest
from playwright.sync_api import Page, expect
from psycopg.rows import dict_row

from tests.browser.conftest import SIZES, Open, photograph, settled
from tests.live import LiveApi, eventually

pytestmark = [pytest.mark.stack, pytest.mark.timeout(300)]

NASTY = "<img src=x onerror=alert(1)> ![x](http://evil.invalid/x.png) **bold** $x$"
PAGES = {
    "overview": "/",
    "orders": "/orders",
    "reviews": "/reviews",
    "latency": "/latency",
    "load_tests": "/load_tests",
    "audit": "/audit",
}


def rows(url: str, query: str, **parameters: object) -> list[dict]:
    with psycopg.connect(url, row_factory=dict_row) as connection:
        return connection.execute(query, parameters).fetchall()


def start_form(page: Page) -> None:
    page.get_by_text("Start orders").click()
    page.get_by_label("Street").wait_for()


def test_an_order_is_started_in_the_form_and_seen_to_complete(open_page: Open, live: LiveApi):
    page = open_page("/orders")
    start_form(page)
    page.get_by_label("Order id", exact=True).fill("from-the-form")
    page.get_by_label("Street").fill(NASTY)
    page.get_by_role("button", name="Start", exact=True).click()
    expect(page.get_by_role("heading", name="Order from-the-form")).to_be_visible(timeout=15_000)
    expect(page.get_by_text("completed", exact=True)).to_be_visible(timeout=25_000)
    settled(page)
    assert live.status("from-the-form")["status"] == "completed"
    # The attempts are drawn, and Temporal's own page of the workflow is a link away.
    expect(page.locator(".js-plotly-plot")).to_have_count(1)
    link = page.get_by_role("link", name="Temporal's view").get_attribute("href")
    assert link is not None
    assert "order-from-the-form" in link
    photograph(page, "order-light")


def test_an_order_is_cancelled_and_the_buttons_go(open_page: Open, live: LiveApi):
    order_id = live.start(review="manual")
    page = open_page(f"/orders?order={order_id}")
    page.get_by_role("button", name="Cancel", exact=True).click()
    page.get_by_label("Reason").fill(NASTY)
    page.get_by_role("button", name="Cancel the order").click()
    expect(page.get_by_text("Accepted: the order is cancelled.")).to_be_visible(timeout=10_000)
    expect(page.get_by_text("cancelled", exact=True)).to_be_visible(timeout=20_000)
    settled(page)
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
    page.get_by_role("button", name="Change the address").click()
    expect(page.get_by_text("Accepted: the address is changed.")).to_be_visible(timeout=10_000)
    (row,) = rows(
        order_database_url,
        "select address ->> 'street' as street from orders where order_id = %(id)s",
        id=order_id,
    )
    assert row["street"] == "99 New Road"
    live.signal(order_id, "cancel", reason="done", cancelled_by="test")


def test_an_order_is_approved_at_the_review_desk_in_one_click(open_page: Open, live: LiveApi):
    page = open_page("/reviews")
    settled(page)
    order_id = live.start(review="manual")
    card = page.locator(f".st-key-card-{order_id}")
    card.wait_for(timeout=10_000)
    expect(card.get_by_text("s left")).to_be_visible()
    photograph(page, "reviews-waiting-light")
    card.get_by_role("button", name="Approve").click()
    expect(page.get_by_text("Accepted: the order is approved.")).to_be_visible(timeout=10_000)
    assert live.finished(order_id)["status"] == "completed"
    expect(card).to_have_count(0, timeout=10_000)


def test_a_request_that_comes_too_late_is_told(open_page: Open, live: LiveApi):
    order_id = live.start(review="manual")
    page = open_page(f"/orders?order={order_id}")
    # A page that stands still goes on offering what is not possible any more.
    page.get_by_text("Live", exact=True).click()
    settled(page)
    page.get_by_role("button", name="Cancel", exact=True).click()
    page.get_by_label("Reason").wait_for()
    live.signal(order_id, "reject", reviewer="somebody", reason="quicker")
    page.get_by_role("button", name="Cancel the order").click()
    expect(page.get_by_text(re.compile("too late", re.IGNORECASE)).first).to_be_visible(timeout=10_000)


@pytest.fixture(scope="module")
def a_run(live: LiveApi) -> str:
    """The id of a run of a few orders that have finished, two of them cancelled."""
    ids = [live.start(f"shown-{n}", run_id="shown") for n in range(8)]
    for order_id in ids[:2]:
        live.signal(order_id, "cancel", reason="=cmd()", cancelled_by="test")
    for order_id in ids:
        live.finished(order_id)
    return "shown"


def orders_shown(page: Page) -> str:
    tile = page.get_by_test_id("stMetric").filter(has_text=re.compile("^Orders"))
    return tile.get_by_test_id("stMetricValue").inner_text()


def test_a_filter_stands_in_the_address_and_the_link_shows_the_same(open_page: Open, a_run: str):
    page = open_page(f"/latency?run={a_run}")
    settled(page)
    assert orders_shown(page) == "8"
    page.get_by_role("combobox", name="Outcome").click()
    page.get_by_role("option", name="cancelled").click()
    expect(page.get_by_role("link", name="CSV of these 2 orders")).to_be_visible(timeout=15_000)
    settled(page)
    query = parse_qs(urlsplit(page.url).query)
    assert (query["run"], query["outcome"]) == ([a_run], ["cancelled"])
    page.get_by_role("button", name="Last hour").click()
    page.wait_for_url(re.compile("since="), timeout=10_000)
    settled(page)
    again = open_page(page.url)
    settled(again)
    assert orders_shown(again) == orders_shown(page) == "2"
    for name in ("since", "until"):
        label = f"Accepted {name} (UTC)"
        told = [each.get_by_role("group", name=label).inner_text() for each in (page, again)]
        assert told[0] == told[1]
        assert re.search(r"\d{4}", told[0])


def test_the_csv_holds_what_the_database_does_row_by_row(
    open_page: Open, a_run: str, order_database_url: str
):
    page = open_page(f"/latency?run={a_run}")
    settled(page)
    href = page.get_by_role("link", name="CSV of these 8 orders").get_attribute("href")
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
            told = datetime.fromisoformat(cells[name])
            assert abs((told - row[name].astimezone(UTC)).total_seconds()) < 0.001
        parts = ("receive", "validate", "review", "charge", "prepare", "dispatch", "compensate", "waiting")
        for name in ("end_to_end", "completion", "ingress", *parts):
            assert int(cells[f"{name}_ms"]) == row[f"{name}_ms"]
        assert sum(int(cells[f"{part}_ms"]) for part in parts) == int(cells["completion_ms"])
        assert cells["within_limit"] == str(row["within_limit"]).lower()


def test_a_table_has_no_download_that_would_run_a_formula(open_page: Open, a_run: str):
    page = open_page(f"/orders?order={a_run}-0")
    settled(page)
    page.get_by_role("tab", name="Events").click()
    for table in page.get_by_test_id("stDataFrame").filter(visible=True).all():
        table.hover()
        toolbar = page.get_by_test_id("stElementToolbar").filter(visible=True)
        toolbar.get_by_role("button", name="Search").first.wait_for(timeout=10_000)
        expect(toolbar.get_by_role("button", name=re.compile("Download", re.IGNORECASE))).to_have_count(0)


def test_a_load_test_is_started_and_its_verdict_seen(open_page: Open):
    page = open_page("/load_tests")
    page.get_by_text("Start a load test").click()
    page.get_by_label("Rate", exact=True).fill("2")
    page.get_by_label("Duration").fill("5s")
    page.get_by_label("SLO target", exact=True).fill("0.5")
    page.get_by_label("Run id").fill("browser-run")
    page.get_by_role("button", name="Start", exact=True).click()
    expect(page.get_by_text("browser-run").first).to_be_visible(timeout=30_000)
    expect(page.get_by_text(re.compile("The run has ended with exit code"))).to_be_visible(timeout=120_000)
    photograph(page, "load_tests-ended-light")
    page.get_by_role("button", name="Show its verdict").click()
    expect(page.get_by_text("invariants", exact=True)).to_be_visible(timeout=20_000)
    settled(page)
    assert parse_qs(urlsplit(page.url).query)["run"] == ["browser-run"]
    for each in (page, open_page(page.url)):
        expect(each.get_by_role("button", name="summary.md")).to_be_visible(timeout=20_000)
    photograph(page, "load_tests-verdict-light")


def test_a_load_test_can_be_stopped(open_page: Open):
    page = open_page("/load_tests")
    page.get_by_text("Start a load test").click()
    page.get_by_label("Rate", exact=True).fill("1")
    page.get_by_label("Duration").fill("120s")
    page.get_by_label("Run id").fill("stopped-run")
    page.get_by_role("button", name="Start", exact=True).click()
    page.get_by_role("button", name="Stop", exact=True).click(timeout=40_000)
    expect(page.get_by_text(re.compile("The run has ended with exit code"))).to_be_visible(timeout=90_000)


def test_the_audit_says_how_each_invariant_stands(open_page: Open, a_run: str):
    page = open_page(f"/audit?run={a_run}")
    expect(page.locator(".stMarkdownBadge").filter(has_text="holds")).to_have_count(9, timeout=60_000)
    photograph(page, "audit-done-light")


def test_faults_are_switched_and_shown_in_force(open_page: Open, live: LiveApi):
    page = open_page("/")
    page.get_by_label("Profile").click()
    page.get_by_role("option", name="slow").click()
    page.get_by_role("button", name="Put in force").click()
    expect(page.get_by_text(re.compile("In force: slow"))).to_be_visible(timeout=10_000)
    assert live.http.get("/faults").json()["profile"] == "slow"
    live.http.put("/faults", json={"profile": "none"})


AXIS = "plot => plot._fullLayout.xaxis.range.map(end => Math.round(end * 1000))"


@pytest.fixture
def two_runs(order_database_url: str) -> tuple[str, str]:
    """Two stored runs, as if they had been judged."""
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


def test_a_zoom_survives_the_ticks_of_a_live_page(open_page: Open, two_runs: tuple[str, str]):
    one, other = two_runs
    page = open_page(f"/load_tests?run={one}&beside={other}")
    # Beside each chart there is a hidden one, for printing.
    plot = page.locator(".st-key-compare .js-plotly-plot:visible")
    plot.wait_for(timeout=20_000)
    settled(page)
    plot.scroll_into_view_if_needed()
    before = plot.evaluate(AXIS)
    box = page.locator(".st-key-compare .nsewdrag:visible").first.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] * 0.3, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.6, box["y"] + box["height"] / 2, steps=8)
    page.mouse.up()
    page.wait_for_timeout(700)
    zoomed = plot.evaluate(AXIS)
    assert zoomed != before
    page.wait_for_timeout(12_000)
    assert plot.evaluate(AXIS) == zoomed


def heights(page: Page) -> list[int]:
    found: list[int] = page.evaluate(
        "() => [...document.querySelectorAll('h1, h2, h3, .js-plotly-plot')]"
        ".map(each => each.getBoundingClientRect()).filter(place => place.height > 0)"
        ".map(place => Math.round(place.top))"
    )
    return found


def test_nothing_jumps_while_orders_come_and_go(open_page: Open, live: LiveApi):
    page = open_page("/")
    settled(page)
    page.wait_for_timeout(2_500)
    before = heights(page)
    for n in range(6):
        live.start(f"jumping-{n}-{int(time.time())}")
    for _ in range(8):
        page.wait_for_timeout(700)
        assert heights(page) == before


def test_a_paused_page_stands_still(open_page: Open, live: LiveApi):
    page = open_page("/")
    settled(page)
    page.get_by_text("Live", exact=True).click()
    settled(page)
    tile = page.get_by_test_id("stMetric").filter(has_text="In flight").get_by_test_id("stMetricValue")
    before = tile.inner_text()
    order_id = live.start(review="manual")
    page.wait_for_timeout(5_000)
    assert tile.inner_text() == before
    page.get_by_text("Live", exact=True).click()
    expect(tile).not_to_have_text(before, timeout=8_000)
    live.signal(order_id, "cancel", reason="done", cancelled_by="test")


CHOSEN = {
    "order": "/orders?order=shown-2",
    "order-cancelled": "/orders?order=shown-0",
    "latency-run": "/latency?run=shown",
    # Judged above.
    "load_tests-run": "/load_tests?run=browser-run",
    "load_tests-compared": "/load_tests?run=zoomed-1&beside=zoomed-2",
    "audit-report": "/audit?run=shown",
}
"""What somebody has chosen on a page, of the orders and runs of the fixtures."""


@pytest.mark.parametrize("look", SIZES)
@pytest.mark.parametrize("name", [*PAGES, *CHOSEN])
@pytest.mark.usefixtures("a_run", "two_runs")
def test_every_page_is_drawn_in_every_look(open_page: Open, live: LiveApi, name: str, look: str):
    if name in ("overview", "reviews"):
        for n in range(3):
            live.start(f"photo-{name}-{look}-{n}", review="manual")
    page = open_page((PAGES | CHOSEN)[name], look)
    settled(page)
    if name == "audit-report":
        expect(page.locator(".stMarkdownBadge").filter(has_text="holds")).to_have_count(9, timeout=60_000)
    page.wait_for_timeout(2_500)
    wider = page.evaluate("() => document.documentElement.scrollWidth - window.innerWidth")
    assert wider <= 0, "the page is wider than its window"
    assert page.get_by_test_id("stException").count() == 0
    assert photograph(page, f"{name}-{look}").stat().st_size > 10_000


def test_the_api_away_is_told_and_comes_back(open_page: Open, whole_stack, live: LiveApi):
    page = open_page("/orders")
    whole_stack.stop("api")
    try:
        start_form(page)
        page.get_by_role("button", name="Start", exact=True).click()
        expect(page.get_by_text("The API does not answer").first).to_be_visible(timeout=10_000)
        now = open_page("/")
        expect(now.get_by_text("unknown while the API is away").first).to_be_visible(timeout=10_000)
    finally:
        whole_stack.start("api")
    eventually(lambda: live.http.get("/health").status_code == 200)
