"""Every page in both themes and three widths: contrast, width, and the approved screenshots."""

from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest
from PIL import Image, ImageDraw
from playwright.sync_api import Browser

from tests.browser.conftest import SCREENSHOTS
from tests.browser.frozen import FrozenDashboard
from tests.browser.views import (
    APPROVED,
    MAX_CHANGED,
    RENDERING,
    THEMES,
    VIEWS,
    WIDTHS,
    View,
    approve,
    approve_rendering,
    difference,
    open_view,
    reduced,
    same_rendering,
)

pytestmark = pytest.mark.timeout(120)

LOW_CONTRAST = Path(__file__).with_name("low_contrast.js").read_text(encoding="utf-8")


@pytest.fixture(scope="module", params=product(VIEWS, THEMES), ids="-".join)
def view(request: pytest.FixtureRequest, browser: Browser, frozen: FrozenDashboard) -> Iterator[View]:
    with open_view(browser, frozen, *request.param) as opened:
        yield opened


def test_text_contrasts_with_its_background(view: View):
    found = [each for frame in view.page.frames for each in frame.evaluate(LOW_CONTRAST)]
    assert not found, "\n".join(found)


@pytest.fixture(scope="session")
def is_comparable(browser: Browser, request: pytest.FixtureRequest) -> bool:
    """Whether the pictures can be compared: another version of Chromium, or other fonts, draw them
    differently."""
    if request.config.getoption("approve_screenshots"):
        approve_rendering(browser)
    return same_rendering(browser)


def test_the_page_fits_every_width_and_looks_as_approved(
    view: View, is_comparable: bool, request: pytest.FixtureRequest
):
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    problems = []
    for width in WIDTHS:
        name = f"{view.name}-{view.theme}-{width}"
        png = view.resize(width)
        (SCREENSHOTS / f"{name}.png").write_bytes(png)
        for element in ("document.documentElement", "document.querySelector('[data-testid=stMain]')"):
            scrolled = view.page.evaluate(f"{element}.scrollWidth - {element}.clientWidth")
            if scrolled > 0:
                problems.append(f"{name} is {scrolled} px wider than the window")
        if request.config.getoption("approve_screenshots"):
            approve(name, png)
        elif is_comparable and (changed := compared(name, png)) > MAX_CHANGED:
            problems.append(f"{name} changed in {100 * changed:.2f} % of its pixels")
    assert view.page.get_by_test_id("stException").count() == 0
    assert not problems, (
        f"{'; '.join(problems)}. The new pictures are in {SCREENSHOTS}. "
        "If they are right, run: make approve-screenshots"
    )
    if not is_comparable:
        pytest.skip("this Chromium draws a sample differently from the one of the approved screenshots")


def compared(name: str, png: bytes) -> float:
    path = APPROVED / f"{name}.png"
    if not path.exists():
        return 1.0
    with Image.open(path) as approved:
        return difference(approved.convert("RGB"), reduced(png))


def test_every_approved_screenshot_is_of_a_view_and_they_are_small():
    pictures = list(APPROVED.glob("*.png"))
    names = {f"{view}-{theme}-{width}" for view, theme, width in product(VIEWS, THEMES, WIDTHS)} | {
        RENDERING.stem
    }
    assert {path.stem for path in pictures} == names
    assert sum(path.stat().st_size for path in pictures) < 3_000_000


def test_a_changed_label_is_detected_and_noise_is_not():
    approved = Image.new("RGB", (480, 500), "white")
    noisy = approved.point(lambda channel: channel - 30)
    assert difference(approved, noisy) == 0
    changed = approved.copy()
    ImageDraw.Draw(changed).rectangle((10, 10, 40, 15), fill="black")
    assert difference(approved, changed) > MAX_CHANGED
    assert difference(approved, approved.crop((0, 0, 480, 499))) == 1
