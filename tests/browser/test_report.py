"""`report.html` and its playback in headless Chromium, opened from the disk without network."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from loadtest.reports.html_report import html_report
from tests.browser.conftest import PATIENCE_MS, SCREENSHOTS
from tests.live import eventually
from tests.load.report_inputs import report_input

pytestmark = pytest.mark.timeout(120)

HOSTILE = "<img src=x onerror=document.title='attacked'></script>"

Report = Callable[..., Page]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(html_report(report_input(600, error=HOSTILE)), encoding="utf-8")
    return path


@pytest.fixture
def report(browser: Browser, file: Path) -> Iterator[Report]:
    """Open the report. The test fails on a request, and on an error in the console."""
    problems: list[str] = []
    contexts = []

    def opened(width: int = 1280, **options: str) -> Page:
        context = browser.new_context(viewport={"width": width, "height": 900}, offline=True, **options)
        contexts.append(context)
        context.set_default_timeout(PATIENCE_MS)
        page = context.new_page()
        page.on("request", lambda request: problems.append(request.url))
        page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(file.as_uri())
        page.wait_for_selector("body[data-ready]")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert set(problems) == {file.as_uri()}


def clock(page: Page) -> float:
    return float(page.evaluate("playback.clockMs"))


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1440, 900, 390])
def test_every_chart_is_drawn_without_network(report: Report, theme: str, width: int) -> None:
    page = report(width, color_scheme=theme)
    expect(page.locator("#charts .chart .main-svg").first).to_be_visible()
    assert (
        page.locator(".chart:visible").count() == page.locator(".chart:visible:has(.main-svg)").count() == 6
    )
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.title() == "Load test run: limit breached"
    page.evaluate("playback.seek(24000)")
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"report-{theme}-{width}.png", full_page=True)


def test_the_button_changes_the_theme_of_page_charts_and_playback(report: Report) -> None:
    page = report(color_scheme="light")
    colors = (
        "[getComputedStyle(document.body).backgroundColor, document.querySelector('.xtick text').style.fill]"
    )
    light = page.evaluate(colors)
    page.get_by_role("button", name="Use the dark theme").click()
    # The policy of the page forbids wait_for_function, which evaluates a text.
    eventually(lambda: page.evaluate(colors)[1] != light[1])
    assert page.evaluate(colors) == ["rgb(16, 22, 29)", "rgb(232, 238, 244)"]
    assert page.evaluate("playback.race.color('--text')") == "#e8eef4"
    page.locator("#chart-0 .nsewdrag").first.hover()
    hover_box = page.locator("#chart-0 .hoverlayer .legend .bg")
    expect(hover_box).to_have_css("fill", "rgb(26, 35, 45)")


def test_a_timeline_is_drawn_when_it_opens(report: Report) -> None:
    page = report()
    second = page.locator("details").nth(1)
    assert second.locator(".main-svg").count() == 0
    second.locator("summary").click()
    expect(second.locator(".main-svg").first).to_be_visible()


def test_the_keyboard_plays_pauses_and_moves(report: Report) -> None:
    page = report()
    scrub_bar = page.get_by_role("slider", name="Time of the run")
    scrub_bar.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Shift+ArrowRight")
    assert clock(page) == 11_000
    page.keyboard.press("ArrowLeft")
    assert clock(page) == 10_000
    counts = page.locator("[data-part=counts]").inner_text()
    expect(scrub_bar).to_have_attribute("aria-valuetext", f"10.0 s: {counts}")
    page.keyboard.press("Space")
    eventually(lambda: clock(page) > 10_500)
    expect(page.get_by_role("button", name="Pause")).to_be_visible()
    page.keyboard.press("Space")
    paused = clock(page)
    page.keyboard.press("End")
    late = report_input(600).report["limit"]["late"]
    expect(page.locator("[data-part=counts]")).to_have_text(f"0 in flight, 600 finished, {late} late")
    page.keyboard.press("Home")
    assert (clock(page), paused > 10_500) == (0, True)


def test_the_counts_at_a_moment_are_those_of_the_orders(report: Report) -> None:
    page = report()
    at_ms = 24_000
    page.evaluate(f"playback.seek({at_ms})")
    orders = [order for order in report_input(600).playback.orders.shown if order.accepted_ms <= at_ms]
    finished = [order for order in orders if order.accepted_ms + order.end_ms <= at_ms]
    overdue = [order for order in orders if order not in finished and at_ms - order.accepted_ms > 15_000]
    late = len(overdue) + sum(order.is_late for order in finished)
    expect(page.locator("[data-part=counts]")).to_have_text(
        f"{len(orders) - len(finished)} in flight, {len(finished)} finished, {late} late"
    )


def test_a_disturbance_moves_the_clock_and_flashes(report: Report) -> None:
    page = report()
    page.get_by_role("button", name="20.0 s kill order-worker-1 (+15 s)").click()
    assert clock(page) == 19_000
    corner = "[...playback.race.context.getImageData(5, 100, 1, 1).data]"
    before = page.evaluate(corner)
    page.evaluate("playback.seek(20050)")
    assert page.evaluate(corner) != before


def test_nothing_flashes_and_moves_with_reduced_motion(report: Report) -> None:
    page = report(reduced_motion="reduce")
    page.evaluate("playback.part('speed').value = '1'; playback.seek(19900)")
    corner = "[...playback.race.context.getImageData(5, 100, 1, 1).data]"
    before = page.evaluate(corner)
    page.evaluate("playback.seek(20050)")
    assert page.evaluate(corner) == before
    frames = page.evaluate(
        "async () => { const before = playback.frames; playback.play();"
        " await new Promise((resolve) => setTimeout(resolve, 1600)); playback.pause();"
        " return playback.frames - before; }"
    )
    assert 2 <= frames <= 6


def test_a_printed_report_is_light_and_has_every_timeline(report: Report) -> None:
    page = report(color_scheme="dark")
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    eventually(lambda: page.locator("details:has(.main-svg)").count() == 10)
    assert page.evaluate("document.documentElement.dataset.theme") == "light"
    page.evaluate("window.dispatchEvent(new Event('afterprint'))")
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"


def test_live_orders_keep_their_row(report: Report) -> None:
    """The interface that a live view uses: orders are added, and end later."""
    page = report()
    rows = page.evaluate(
        """() => {
        const race = new OrderRace(playback.race.canvas, { limitMs: 15000 });
        const order = (id, accepted, end = null) => ({
            id, accepted, end, outcome: end && "completed", late: false, phases: [["receive", 0]]
        });
        const row = (id) => race.rowOf.get(id);
        race.setOrders([order("a", 0), order("b", 10)]);
        const first = [row("a"), row("b")];
        race.setOrders([order("a", 0, 500), order("b", 10), order("c", 600)]);
        const second = [row("b"), row("c")];
        race.setOrders([order("b", 10), order("c", 600), order("d", 700)]);
        return [first, second, [row("b"), row("c"), row("d")], race.draw(800)];
    }"""
    )
    assert rows[:3] == [[0, 1], [1, 0], [1, 0, 2]]
    assert rows[3] == {"waiting": 0, "inFlight": 3, "finished": 0, "late": 0, "phases": {"receive": 3}}
