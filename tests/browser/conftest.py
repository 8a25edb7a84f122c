"""Headless Chromium against a real stack. Skipped without Chromium."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from orchestrator.embedded import Stack
from tests.browser.frozen import FrozenDashboard, frozen_dashboard
from tests.live import LiveApi
from tests.stacks import stack_settings, temporary_home

SCREENSHOTS = Path(__file__).parents[2] / "var" / "screenshots"
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
SIZES = {"light": (1280, 900), "dark": (1280, 900), "narrow": (390, 844)}

UNTIL_QUIET = """() => new Promise((resolve) => {
    // On a busy machine, the refreshes of a live page leave no pause.
    setTimeout(resolve, 15_000);
    let timer;
    const wait = () => { clearTimeout(timer); timer = setTimeout(resolve, 250); };
    new MutationObserver(wait).observe(document.body, { subtree: true, childList: true, attributes: true });
    wait();
})"""

COUNT_RERUNS = """() => {
    const app = document.querySelector("[data-testid=stApp]");
    window.reruns = 0;
    new MutationObserver(() => { window.reruns += app.dataset.testScriptState === "notRunning"; })
        .observe(app, { attributeFilter: ["data-test-script-state"] });
}"""

PATIENCE_MS = 60_000
"""Maximum wait for anything on a page: several seconds on a machine that also runs other programs."""

expect.set_options(timeout=PATIENCE_MS)

Open = Callable[..., Page]


@pytest.fixture(scope="session")
def whole_stack() -> Iterator[Stack]:
    """A stack with all components, including the dashboard."""
    with temporary_home("orders-browser-") as home:
        # Browser steps on a busy machine can take longer than 15 s.
        stack = Stack(stack_settings(home).model_copy(update={"order_deadline_seconds": 60}))
        stack.up(bound=True)
        yield stack


@pytest.fixture(scope="session")
def live(whole_stack: Stack) -> Iterator[LiveApi]:
    with LiveApi(whole_stack.settings.api_url) as api:
        yield api


@pytest.fixture(scope="session")
def order_database_url(whole_stack: Stack) -> str:
    return whole_stack.settings.order_database_url


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed; on Debian: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def frozen() -> Iterator[FrozenDashboard]:
    with frozen_dashboard() as dashboard:
        yield dashboard


@pytest.fixture
def open_page(browser: Browser, whole_stack: Stack) -> Iterator[Open]:
    """Open a URL of the dashboard and return the page when it has a heading.

    The test fails when the browser console of a page has an error.
    """
    base = f"http://127.0.0.1:{whole_stack.settings.port('dashboard')}"
    errors: list[str] = []
    contexts = []

    def open_at(address: str = "/", theme: str = "light") -> Page:
        width, height = SIZES[theme]
        context = browser.new_context(
            viewport={"width": width, "height": height},
            color_scheme="dark" if theme == "dark" else "light",
            accept_downloads=True,
        )
        contexts.append(context)
        context.set_default_timeout(PATIENCE_MS)
        page = context.new_page()
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(address if address.startswith("http") else base + address)
        page.get_by_role("heading", level=1).first.wait_for()
        return page

    yield open_at
    for context in contexts:
        context.close()
    assert errors == []


def wait_until_drawn(page: Page) -> None:
    """Wait until the page has finished running and drawing."""
    page.wait_for_function(
        "() => !document.querySelector('[data-testid=stStatusWidget]')"
        " && !document.querySelector('[data-testid^=stSkeleton]')",
    )
    page.evaluate(UNTIL_QUIET)


def wait_for_reruns(page: Page, count: int) -> None:
    """Wait until the page, or fragments of it, have run `count` times."""
    page.evaluate(COUNT_RERUNS)
    page.wait_for_function("count => window.reruns >= count", arg=count)


def screenshot(page: Page, name: str) -> Path:
    """Save a screenshot of the whole page."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    width = page.viewport_size["width"] if page.viewport_size else 1280
    with _full_height(page, width):
        path = SCREENSHOTS / f"{name}.png"
        page.screenshot(path=path)
    return path


@contextmanager
def _full_height(page: Page, width: int) -> Iterator[None]:
    # Streamlit scrolls an inner element, so Playwright's full-page screenshot would end at the window.
    before = page.viewport_size
    height = page.evaluate("() => document.querySelector('[data-testid=stMain]').scrollHeight")
    page.set_viewport_size({"width": width, "height": min(max(height + 20, 600), 6_000)})
    page.evaluate(UNTIL_QUIET)
    yield
    if before is not None:
        page.set_viewport_size(before)
