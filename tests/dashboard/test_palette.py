"""Colors contrast with their background and are distinguishable with color blindness."""

import math
from itertools import combinations

import pytest

from dashboard.__main__ import theme
from db.domain import State
from loadtest.charts import time_breakdown
from loadtest.charts.axes import BAND_OPACITY
from loadtest.charts.palette import DARK, LIGHT, palette_of
from loadtest.playback import document

CHIPS = ("red", "orange", "yellow", "blue", "green", "violet", "gray")
TEXT, MARK = 4.5, 3.0
"""The least contrast of text and of other marks: WCAG 2.2, success criteria 1.4.3 and 1.4.11, level AA."""


def channels(color: str) -> list[int]:
    return [int(color[n : n + 2], 16) for n in (1, 3, 5)]


def luminance(color: str) -> float:
    shares = [channel / 255 for channel in channels(color)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in shares]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    """Return the contrast ratio of WCAG 2.2."""
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def over(color: str, background: str, opacity: float) -> str:
    """Return the color of a translucent mark on a background."""
    mixed = [
        round(opacity * one + (1 - opacity) * other)
        for one, other in zip(channels(color), channels(background), strict=True)
    ]
    return "#" + "".join(f"{channel:02x}" for channel in mixed)


def theme_of(mode: str) -> dict[str, str]:
    prefix = f"theme.{mode}."
    return {name.removeprefix(prefix): str(value) for name, value in theme().items() if prefix in name}


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_text_contrasts_with_every_background_of_the_page(mode: str):
    colors = theme_of(mode)
    names = ("textColor", "linkColor", *(f"{chip}TextColor" for chip in CHIPS))
    for name in names:
        for background in ("backgroundColor", "secondaryBackgroundColor"):
            assert contrast(colors[name], colors[background]) >= TEXT, (name, background)


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_chips_and_messages_contrast_with_their_background(mode: str):
    colors = theme_of(mode)
    for chip in CHIPS:
        background = colors[f"{chip}BackgroundColor"]
        assert contrast(colors[f"{chip}TextColor"], background) >= TEXT, chip
        assert contrast(colors["textColor"], background) >= TEXT, chip


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_buttons_and_the_focus_ring_contrast_with_the_page(mode: str):
    colors = theme_of(mode)
    assert contrast(colors["primaryColor"], colors["backgroundColor"]) >= MARK
    assert contrast(colors["primaryColor"], colors["secondaryBackgroundColor"]) >= MARK


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_marks_and_labels_of_charts_contrast_with_the_page(mode: str):
    colors, page = palette_of(mode), theme_of(mode)["backgroundColor"]
    assert contrast(colors.text, page) >= 7.0
    # Lines and bars of these colors also have labels of the same color, or text on them.
    for color in (colors.info, colors.success, colors.warning, colors.error, colors.accent):
        assert contrast(color, page) >= TEXT, color
        assert contrast(colors.on_mark, color) >= TEXT, color
    assert contrast(colors.muted, page) >= MARK
    # The name of a fault profile is drawn on its translucent band.
    assert contrast(colors.band, over(colors.band, page, BAND_OPACITY)) >= TEXT


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_texts_and_controls_of_a_run_report_contrast_with_its_backgrounds(mode: str):
    colors, page = document.colors(mode), theme_of(mode)
    assert (colors["background"], colors["surface"]) == (
        page["backgroundColor"], page["secondaryBackgroundColor"],
    )  # fmt: skip
    for background in (colors["background"], colors["surface"]):
        for name in ("text", "quiet", "info", "success", "error", "late"):
            assert contrast(colors[name], background) >= TEXT, name
        assert contrast(colors["control"], background) >= MARK


# Matrices on linear RGB that simulate color blindness: G. M. Machado et al., IEEE TVCG 15 (2009) 1291-1298.
BLINDNESS = {
    "deuteranopia": (
        (0.367322, 0.860646, -0.227968),
        (0.280085, 0.672501, 0.047413),
        (-0.01182, 0.04294, 0.968881),
    ),
    "protanopia": (
        (0.152286, 1.052583, -0.204868),
        (0.114503, 0.786281, 0.099216),
        (-0.003882, -0.048116, 1.051998),
    ),
    "tritanopia": (
        (1.255528, -0.076749, -0.178779),
        (-0.078411, 0.930809, 0.147602),
        (0.004733, 0.691367, 0.303900),
    ),
}


def simulated(color: str, blindness) -> list[float]:
    rgb = [(int(color[n : n + 2], 16) / 255) ** 2.2 for n in (1, 3, 5)]
    return [sum(k * c for k, c in zip(row, rgb, strict=True)) for row in blindness]


@pytest.mark.parametrize("blindness", BLINDNESS.values(), ids=list(BLINDNESS))
@pytest.mark.parametrize("colors", [LIGHT, DARK], ids=["light", "dark"])
def test_outcomes_are_distinguishable_with_color_blindness(colors, blindness):
    for one, other in combinations((colors.success, colors.warning, colors.error), 2):
        assert math.dist(simulated(one, blindness), simulated(other, blindness)) > 0.08, (one, other)


@pytest.mark.parametrize("blindness", BLINDNESS.values(), ids=list(BLINDNESS))
@pytest.mark.parametrize("colors", [LIGHT, DARK], ids=["light", "dark"])
def test_segments_are_distinguishable_with_color_blindness(colors, blindness):
    row = dict.fromkeys((f"{segment}_ms" for segment in time_breakdown.SEGMENTS), 1)
    row |= {"order_id": "a", "outcome": "completed", "completion_ms": len(time_breakdown.SEGMENTS)}
    traces = time_breakdown.time_breakdown([row], colors, 15_000).data
    assert [trace.name for trace in traces] == list(time_breakdown.SEGMENTS)
    for one, other in combinations(traces, 2):
        if one.marker.pattern.shape == other.marker.pattern.shape:
            places = [simulated(trace.marker.color, blindness) for trace in (one, other)]
            assert math.dist(*places) > 0.15, (one.name, other.name)


def test_the_palette_follows_the_theme():
    assert palette_of("dark") is DARK
    assert palette_of("light") is palette_of(None) is LIGHT
    assert LIGHT.of_outcome(State.RECEIVED) == LIGHT.info
