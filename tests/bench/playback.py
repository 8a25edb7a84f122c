"""`python -m tests.bench.playback`: measure the frame rate of a playback in headless Chromium."""

import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from loadtest.bench.harness import TABLE_HEADER, Measurement
from loadtest.playback.document import playback_page
from orchestrator.errors import ExitCode
from tests.load.report_inputs import run_playback

ORDERS = 3_000
MIN_FRAMES_PER_SECOND = 30.0
RATES = {"a minute": 50.0, "five seconds, most of them in flight together": 600.0}
"""Orders per second by the time in which all orders are accepted."""

_MEASURE = """async (seconds) => {
    playback.part("speed").value = "1";
    playback.seek(3000);
    const frames = playback.frames, began = performance.now();
    playback.play();
    await new Promise((resolve) => setTimeout(resolve, seconds * 1000));
    const rate = (playback.frames - frames) / (performance.now() - began) * 1000;
    playback.pause();
    return rate;
}"""


def frame_rates(seconds: float = 5.0) -> Iterator[Measurement]:
    """Measure the frames that the playback draws per second."""
    target = f"≥ {MIN_FRAMES_PER_SECOND:g} frames/s"
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        yield Measurement("playback in a browser", "not measured: Chromium is not installed", target)
        return
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as folder:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": 1280, "height": 900})
        for name, rate in RATES.items():
            file = Path(folder, "playback.html")
            file.write_text(playback_page(run_playback(ORDERS, rate), "light"), encoding="utf-8")
            tab.goto(file.as_uri())
            tab.wait_for_selector("body[data-ready]")
            measured = tab.evaluate(_MEASURE, seconds)
            yield Measurement(
                f"playback of {ORDERS:,} orders of {name}",
                f"{measured:.0f} frames/s",
                target,
                measured >= MIN_FRAMES_PER_SECOND,
            )
        browser.close()


def main() -> int:
    measurements = list(frame_rates())
    print("\n".join([TABLE_HEADER, *map(str, measurements)]))  # noqa: T201
    is_missed = any(each.is_met is False for each in measurements)
    return ExitCode.LIMIT_BREACHED if is_missed else ExitCode.PASSED


if __name__ == "__main__":
    sys.exit(main())
