"""The Load tests page in a browser: rows, points and seconds that open by a click."""

import re
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import Locator, Page, expect

from db import runs
from db.read_models import latency
from db.read_only_database import ReadOnlyDatabase
from db.runs import NewRun, RunResult
from loadtest.bench.seed import seed
from loadtest.options import RunOptions
from tests.browser.conftest import SIZES, Open, screenshot, wait_for_reruns, wait_until_drawn
from tests.dashboard.conftest import query, reader_of


@pytest.fixture(scope="module")
def run_id(order_database_url: str) -> str:
    """A stored run with late orders, a verdict for the trend, and a kill."""
    seed(order_database_url, 3_000, days=1, progress=lambda _: None)
    database: ReadOnlyDatabase = reader_of(order_database_url)
    # Other tests of this stack make runs too.
    names = [row["run_id"] for row in latency.run_names(database)]
    found = next(name for name in names if name.startswith("seed-"))
    database.close()
    query(
        order_database_url,
        """
        update runs set chaos = '[{"at_seconds": 120, "verb": "kill", "target": "api", "problem": null}]'
        where run_id = %(run)s returning run_id
        """,
        {"run": found},
    )
    return found


def chart(page: Page, key: str) -> Locator:
    plot = page.locator(f".st-key-{key} .js-plotly-plot:visible")
    plot.wait_for()
    wait_until_drawn(page)
    plot.scroll_into_view_if_needed()
    return plot


def click_first_row(page: Page, key: str) -> None:
    """Click in the first row of a table, which is a canvas."""
    # The key ends with a number.
    table = page.locator(f"[class*='st-key-{key}-']").get_by_test_id("stDataFrameResizable")
    # The table finds out where it is when the pointer enters it.
    table.hover(position={"x": 250, "y": 50})
    wait_until_drawn(page)
    table.click(position={"x": 250, "y": 50})


def parameters(page: Page) -> dict[str, list[str]]:
    return parse_qs(urlsplit(page.url).query)


@pytest.mark.parametrize("theme", list(SIZES))
def test_a_click_on_the_time_axis_lists_the_orders_of_that_second(open_page: Open, run_id: str, theme: str):
    page = open_page(f"/load_tests?run={run_id}", theme)
    chart(page, "run-time-axis")
    area = page.locator(".st-key-run-time-axis .nsewdrag:visible").first.bounding_box()
    assert area is not None
    page.mouse.move(area["x"] + area["width"] * 0.5, area["y"] + area["height"] * 0.5)
    # Plotly clicks on the point below the pointer, which it finds after a moment.
    page.locator(".st-key-run-time-axis .hoverlayer > *").first.wait_for(state="attached")
    page.mouse.click(area["x"] + area["width"] * 0.5, area["y"] + area["height"] * 0.5)
    listed = page.get_by_text(re.compile(r"^Second \+\d+ s .* orders accepted"))
    expect(listed).to_be_visible()
    wait_until_drawn(page)
    second = parameters(page)["second"][0]
    expect(page.get_by_role("spinbutton", name="Second of the run")).to_have_value(second)
    assert 200 < int(second) < 400, "the middle of a run of 600 s"
    screenshot(page, f"load_tests-run-{theme}")
    if theme == "light":
        click_first_row(page, "second-orders")
        expect(page.get_by_role("heading", level=1)).to_have_text(re.compile("^Order seed-"))


def test_a_second_can_be_entered_with_the_keyboard(open_page: Open, run_id: str):
    page = open_page(f"/load_tests?run={run_id}")
    chart(page, "run-time-axis")
    field = page.get_by_role("spinbutton", name="Second of the run")
    field.focus()
    page.keyboard.type("130")
    page.keyboard.press("Enter")
    expect(page.get_by_text(re.compile(r"^Second \+130 s "))).to_be_visible()


def test_a_row_opens_a_run_and_a_button_returns_to_the_list(open_page: Open, run_id: str):
    page = open_page("/load_tests")
    wait_until_drawn(page)
    screenshot(page, "load_tests-light")
    click_first_row(page, "stored-runs-table")
    expect(page.get_by_role("heading", level=1)).to_have_text(re.compile("^Load test "))
    assert "run" in parameters(page)
    page.get_by_role("button", name="All load tests").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Load tests")
    wait_until_drawn(page)
    assert parameters(page) == {}
    wait_for_reruns(page, 2)
    expect(page.get_by_role("heading", level=1)).to_have_text("Load tests")


def store_run(url: str, run_id: str) -> None:
    """Store a run with a verdict, so that the list has a trend."""
    options = RunOptions.parse({"run_id": run_id, "rate": "3", "duration": "30s"}).to_json()
    started_at = datetime.now(UTC) - timedelta(minutes=1)
    assert runs.open_run(url, NewRun(run_id, "mixed", options, [], "none", 1, started_at, None, {}))
    times = {"completion_ms": {"p50": 2000.0, "p99": 4000.0}}
    verdict = {"verdict": "passed", "exit_code": 0, "run": {"completed_rate": 2.5}, "times": times}
    runs.close_run(url, run_id, RunResult(datetime.now(UTC), [], verdict, [], [2000, 4000], 0, 2))


def test_the_list_and_the_page_of_a_run_open_although_a_filter_is_set(
    open_page: Open, order_database_url: str, run_id: str
):
    for name in ("trend-1", "trend-2"):
        store_run(order_database_url, name)
    page = open_page(f"/load_tests?run={run_id}&second=130")
    expect(page.get_by_text(re.compile(r"^Second \+130 s "))).to_be_visible()
    page.get_by_role("button", name="All load tests").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Load tests")
    wait_until_drawn(page)
    assert parameters(page) == {}
    # The form that starts a run has a field of this name, too.
    page.locator(".st-key-scenario").get_by_role("combobox").click()
    page.get_by_role("option").first.click()
    page.wait_for_url(re.compile("scenario="))
    wait_until_drawn(page)
    click_first_row(page, "stored-runs-table")
    expect(page.get_by_role("heading", level=1)).to_have_text(re.compile("^Load test "))
    wait_until_drawn(page)
    # Not the second of the run before.
    assert list(parameters(page)) == ["run"]


def test_invalid_options_are_reported_at_their_fields(open_page: Open):
    page = open_page("/load_tests", "narrow")
    page.get_by_text("Start a load test").click()
    page.get_by_role("textbox", name="Rate").fill("fast")
    page.get_by_text("Advanced options").click()
    page.get_by_role("textbox", name="Drain seconds").fill("-1")
    page.get_by_role("button", name="Start", exact=True).click()
    expect(page.get_by_text("rate must be a number of orders per second")).to_be_visible()
    expect(page.get_by_text("drain-seconds must be a number of seconds")).to_be_visible()
    screenshot(page, "load_tests-form-narrow")


def test_a_label_is_saved_and_shown(open_page: Open, run_id: str):
    page = open_page(f"/load_tests?run={run_id}")
    page.get_by_role("button", name="Edit label and notes").click()
    page.get_by_role("textbox", name="Label").fill("before the index")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Load test before the index")
    page.get_by_role("button", name="Delete", exact=True).click()
    expect(page.get_by_text("The run id cannot be used again")).to_be_visible()
    screenshot(page, "load_tests-delete-light")
