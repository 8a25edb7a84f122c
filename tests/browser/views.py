"""The pages of the frozen dashboard, and how tests wait for, measure and compare them."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from PIL import Image, ImageChops
from playwright.sync_api import Browser, Page

from tests.browser.frozen import BASELINE, ORDER, RUN, FrozenDashboard

VIEWS = {
    "overview": "/",
    "orders": "/orders",
    "orders-empty": "/orders?q=unknown",
    "order": f"/orders?order={ORDER}",
    "reviews": "/reviews",
    "latency": "/latency",
    "latency-invalid": "/latency?since=yesterday",
    "load_tests": "/load_tests",
    "run": f"/load_tests?run={RUN}&baseline={BASELINE}",
    "audit": "/audit",
    "stage": "/stage?counters=last+hour",
}
THEMES = ("light", "dark")
WIDTHS = (1440, 900, 390)
HEIGHT, MAX_HEIGHT = 900, 8_000
APPROVED = Path(__file__).with_name("approved")

SCALE = 3
"""Approved pictures have a ninth of the pixels: they are small, and antialiasing hardly matters."""

RENDERING = APPROVED / "rendering.png"
"""The picture that identifies the version and the fonts of the browser."""

_SAMPLE = """<body style="font-size: 20px">
<p style="font-family: sans-serif">The quick brown fox, 0123456789 ✓ ⏳</p>
<p style="font-family: monospace">The quick brown fox, 0123456789</p>
<input value="field"> <button>button</button> <input type="checkbox" checked>
<hr style="height: 20px; border-radius: 9px; background: teal">
"""

COMPLETE_SECONDS = 60
_MISSING = """() => document.querySelectorAll(
    "[data-testid^=stSkeleton], [role=figure]:not(.js-plotly-plot)"
).length"""
"""The number of placeholders, and of figures that wait for those in the window."""

_STOP_THE_STAGE = """() => new Promise((resolve) => {
    const { stage } = window, show = stage.show.bind(stage), draw = stage.race.draw.bind(stage.race);
    stage.isCalm = false;
    stage.show = (data) => {
        show(data);
        stage.race.draw = () => draw(data.now_ms);
        resolve();
    };
})"""
"""Draws the orders at the time of the database, which is stopped, in every frame."""

MIN_DIFFERENCE = 40
"""Of a channel (0 to 255) of a changed pixel."""

MAX_CHANGED = 0.0005
"""The share of pixels of a label of 12 characters in a picture of 1440 x 1500."""


@dataclass(frozen=True)
class View:
    """An open page of the frozen dashboard."""

    page: Page
    name: str
    theme: str

    def resize(self, width: int) -> bytes:
        """Show the whole page in this width and return its picture."""
        self.page.set_viewport_size({"width": width, "height": HEIGHT})
        picture(self.page)
        height = self.page.evaluate("document.querySelector('[data-testid=stMain]').scrollHeight")
        self.page.set_viewport_size({"width": width, "height": min(max(height, HEIGHT), MAX_HEIGHT)})
        return picture(self.page)


@contextmanager
def open_view(browser: Browser, frozen: FrozenDashboard, name: str, theme: str = "light") -> Iterator[View]:
    """Open a view. Raises AssertionError at the end if the browser's console had an error."""
    context = browser.new_context(
        viewport={"width": WIDTHS[0], "height": HEIGHT},
        color_scheme="dark" if theme == "dark" else "light",
        reduced_motion="reduce",
    )
    context.set_default_timeout(1000 * COMPLETE_SECONDS)
    try:
        page = context.new_page()
        errors: list[str] = []
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(frozen.url + VIEWS[name])
        page.get_by_role("heading", level=1).first.wait_for()
        if name == "stage":
            _stop_the_stage(page)
        picture(page)
        yield View(page, name, theme)
        assert errors == []
    finally:
        context.close()


def _stop_the_stage(page: Page) -> None:
    page.frame_locator("iframe").locator("body[data-ready=true]").wait_for()
    frame = page.frame(url="about:srcdoc")
    assert frame is not None
    frame.evaluate(_STOP_THE_STAGE)


def picture(page: Page) -> bytes:
    """Return a picture of the window when it is complete and no longer changes. Raises AssertionError."""
    page.evaluate("document.fonts.ready.then(() => true)")
    before, missing = b"", None
    deadline = time.monotonic() + COMPLETE_SECONDS
    while time.monotonic() < deadline:
        page.wait_for_timeout(150)
        now, missing = page.screenshot(animations="disabled"), page.evaluate(_MISSING)
        if now == before and missing == 0:
            return now
        before = now
    raise AssertionError(f"{missing} elements are missing" if missing else "the page does not stop changing")


def same_rendering(browser: Browser) -> bool:
    """Return whether this browser draws text and shapes as the one of the approved pictures."""
    with Image.open(RENDERING) as approved:
        return difference(approved.convert("RGB"), _rendering_sample(browser)) == 0


def approve_rendering(browser: Browser) -> None:
    _rendering_sample(browser).save(RENDERING, optimize=True)


def _rendering_sample(browser: Browser) -> Image.Image:
    page = browser.new_page(viewport={"width": 600, "height": 300})
    try:
        page.set_content(_SAMPLE)
        return reduced(page.screenshot())
    finally:
        page.close()


def reduced(png: bytes) -> Image.Image:
    return Image.open(BytesIO(png)).convert("RGB").reduce(SCALE)


def approve(name: str, png: bytes) -> None:
    """Store a picture as approved."""
    APPROVED.mkdir(exist_ok=True)
    reduced(png).save(APPROVED / f"{name}.png", optimize=True)


def difference(approved: Image.Image, current: Image.Image) -> float:
    """Return the share of changed pixels; 1 if the size differs."""
    if approved.size != current.size:
        return 1.0
    channels = ImageChops.difference(approved, current).split()
    largest = ImageChops.lighter(ImageChops.lighter(channels[0], channels[1]), channels[2])
    changed = sum(largest.histogram()[MIN_DIFFERENCE:])
    return changed / (current.width * current.height)
