"""`python -m tests.browser.pictures`: take the pictures of the docs during a load test with a kill."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from loadtest.options import command_line
from orchestrator.embedded import Stack
from orchestrator.embedded.layout import PROJECT_ROOT, stack_environment
from orchestrator.settings import LOOPBACK, Settings
from tests.browser.conftest import CHROMIUM, wait_until_drawn
from tests.stacks import stack_settings, temporary_home

IMAGES = PROJECT_ROOT / "docs" / "images"
RUN = "picture"
LOAD_TEST = {
    "scenario": "mixed",
    "rate": 3,
    "duration": "60s",
    "faults": "assignment",
    "slo_target": 0.95,
    "chaos": "25s kill order-worker-1",
    "run_id": RUN,
}
LIVE_AFTER_SECONDS = 45
"""Both the load test and the kill are then in the charts of the last two minutes."""

_SLOWEST = """
select order_id from orders
where run_id = %(run_id)s and state = 'completed' order by completion_ms desc limit 1
"""

WIDTH, HEIGHT = 1280, 860
OVERVIEW_WIDTH, OVERVIEW_HEIGHT = 1440, 1600
"""The whole page."""


def main() -> int:
    if CHROMIUM is None:
        sys.stderr.write("Chromium is not installed; on Debian: apt-get install chromium\n")
        return 2
    with temporary_home("orders-pictures-") as home, sync_playwright() as playwright:
        stack = Stack(stack_settings(home))
        stack.up(bound=True)
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        try:
            take_pictures(browser, stack.settings)
        finally:
            browser.close()
    return 0


def take_pictures(browser: Browser, settings: Settings) -> None:
    dashboard = f"http://{LOOPBACK}:{settings.port('dashboard')}"
    with running_load_test(settings) as load_test:
        with opened(browser, f"{dashboard}/", OVERVIEW_WIDTH, OVERVIEW_HEIGHT) as page:
            page.wait_for_timeout(LIVE_AFTER_SECONDS * 1000)
            store(page, "overview")
        load_test.wait(timeout=120)
    with psycopg.connect(settings.order_database_url) as connection:
        (slowest,) = connection.execute(_SLOWEST, {"run_id": RUN}).fetchone() or ("",)
    for name, address in (("latency", f"/latency?run={RUN}"), ("order", f"/orders?order={slowest}")):
        with opened(browser, dashboard + address) as page:
            store(page, name)


@contextmanager
def running_load_test(settings: Settings) -> Iterator[subprocess.Popen[bytes]]:
    arguments = command_line(LOAD_TEST | {"host": settings.api_url})
    load_test = subprocess.Popen(
        [sys.executable, "-m", "loadtest", "run", *arguments],
        cwd=PROJECT_ROOT,
        env=stack_environment(settings),
        stdout=subprocess.DEVNULL,
    )
    try:
        yield load_test
    finally:
        load_test.kill()
        load_test.wait()


@contextmanager
def opened(browser: Browser, address: str, width: int = WIDTH, height: int = HEIGHT) -> Iterator[Page]:
    page = browser.new_page(
        viewport={"width": width, "height": height}, color_scheme="light", reduced_motion="reduce"
    )
    try:
        page.goto(address)
        page.locator(".js-plotly-plot:visible").first.wait_for(timeout=30_000)
        wait_until_drawn(page)
        yield page
    finally:
        page.close()


def store(page: Page, name: str) -> Path:
    path = IMAGES / f"{name}.png"
    page.screenshot(path=path)
    with Image.open(path) as picture:
        picture.convert("RGB").save(path, optimize=True)
    sys.stdout.write(f"{path.relative_to(PROJECT_ROOT)}: {path.stat().st_size / 1000:.0f} kB\n")
    return path


if __name__ == "__main__":
    sys.exit(main())
