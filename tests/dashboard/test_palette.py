"""Colors contrast with their background and are distinguishable with color blindness."""

import math
from itertools import combinations

import pytest

from db.domain import State
from loadtest.charts import time_breakdown
from loadtest.charts.palette import DARK, LIGHT, palette_of


def luminance(color: str) -> float:
    channels = [int(color[n : n + 2], 16) / 255 for n in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize(("colors", "background"), [(LIGHT, "#ffffff"), (DARK, "#10161d")])
def test_every_mark_contrasts_with_the_page(colors, background):
    for color in (colors.info, colors.success, colors.warning, colors.error, colors.accent):
        assert contrast(color, background) >= 3.0, color
    assert contrast(colors.text, background) >= 7.0


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


@pytest.mark.parametrize("colors", [LIGHT, DARK], ids=["light", "dark"])
def test_text_contrasts_with_its_bar(colors):
    for color in (colors.info, colors.warning, colors.error):
        assert contrast(colors.on_mark, color) >= 3.0, color


def test_the_palette_follows_the_theme():
    assert palette_of("dark") is DARK
    assert palette_of("light") is palette_of(None) is LIGHT
    assert LIGHT.of_outcome(State.RECEIVED) == LIGHT.info
