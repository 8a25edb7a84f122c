"""`python -m tests.browser.record_stage`: record the animated picture of the page Stage for the README.

Starts a stack and a load test of 3 orders/s under the assignment faults, opens the page and kills a worker.
"""

import io
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from orchestrator.embedded import Stack
from orchestrator.embedded.layout import PROJECT_ROOT
from orchestrator.settings import Settings
from tests.stacks import stack_settings, temporary_home

PICTURE = PROJECT_ROOT / "docs" / "images" / "stage.webp"
MAX_BYTES = 2_000_000
VIEWPORT = (1280, 720)
SIZE = (960, 540)
FRAMES = 90
FRAME_SECONDS = 0.14
KILL_AT_FRAME, CONFIRM_AT_FRAME = 15, 24
WARM_UP_SECONDS = 18
"""Longer than the limit, so that the picture has finished orders."""


def main() -> int:
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        print("Chromium is not installed; on Debian: apt-get install chromium", file=sys.stderr)  # noqa: T201
        return 2
    with temporary_home("orders-stage-") as home:
        settings = stack_settings(home).model_copy(update={"order_workers": 2})
        stack = Stack(settings)
        stack.up(bound=True)
        with load_test(settings), sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            width, height = VIEWPORT
            page = browser.new_page(viewport={"width": width, "height": height}, color_scheme="dark")
            page.goto(f"{settings.local_url('dashboard')}/stage")
            page.frame_locator("iframe").locator("body[data-ready=true]").wait_for(timeout=60_000)
            page.wait_for_timeout(WARM_UP_SECONDS * 1000)
            frames = list(record(page))
            browser.close()
    save(frames, PICTURE)
    size = PICTURE.stat().st_size
    print(f"{PICTURE}: {len(frames)} frames, {size / 1e6:.2f} MB")  # noqa: T201
    return 0 if size < MAX_BYTES else 1


@contextmanager
def load_test(settings: Settings) -> Iterator[None]:
    environment = os.environ | {"ORDERS_HOME": str(settings.home), "PORT_BASE": str(settings.port_base)}
    options = ("--rate=3", "--duration=90s", "--faults=assignment", "--slo-target=0.9", "--run-id=stage")
    with subprocess.Popen(
        [sys.executable, "-m", "loadtest", "run", *options],
        cwd=PROJECT_ROOT,
        env=environment,
        stdout=subprocess.DEVNULL,
    ) as process:
        try:
            yield
        finally:
            process.terminate()


def record(page: Page) -> Iterator[tuple[Image.Image, int]]:
    """Yield pictures of the page, each with the time in ms until the next one."""
    taken_at = time.monotonic()
    for number in range(FRAMES):
        if number == KILL_AT_FRAME:
            page.get_by_role("button", name="Kill order-worker-1", exact=True).click()
        if number == CONFIRM_AT_FRAME:
            page.get_by_role("dialog").get_by_role("button", name="Kill order-worker-1").click()
        picture = (
            Image.open(io.BytesIO(page.screenshot())).convert("RGB").resize(SIZE, Image.Resampling.LANCZOS)
        )
        page.wait_for_timeout(max(0.0, FRAME_SECONDS - (time.monotonic() - taken_at)) * 1000)
        now = time.monotonic()
        yield picture, round((now - taken_at) * 1000)
        taken_at = now


def save(frames: list[tuple[Image.Image, int]], path: Path) -> None:
    """Write an animated WebP that repeats."""
    pictures, times = zip(*frames, strict=True)
    pictures[0].save(
        path, save_all=True, append_images=pictures[1:], duration=list(times), loop=0, quality=60, method=4
    )


if __name__ == "__main__":
    sys.exit(main())
