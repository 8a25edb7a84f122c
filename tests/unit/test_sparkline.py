"""Sparklines: their marks, and the text for screen readers."""

import re
from base64 import b64decode
from xml.etree import ElementTree

import pytest

from loadtest.charts.sparkline import HEIGHT, WIDTH, sparkline

SVG = "{http://www.w3.org/2000/svg}"


def parsed(html: str) -> tuple[str, ElementTree.Element]:
    """Return the text and the picture."""
    found = re.fullmatch(
        r'<img src="data:image/svg\+xml;base64,([^"]+)" alt="([^"]+)" title="\2" style="[^"]+">', html
    )
    assert found is not None
    return found[2], ElementTree.fromstring(b64decode(found[1]))


def test_the_line_goes_from_the_left_to_the_right_and_the_highest_value_is_at_the_top():
    text, svg = parsed(sparkline([0, 5, 10], "#0072b2", "Late"))
    assert text == "Late: 0 to 10"
    line = svg.find(f"{SVG}polyline")
    assert line is not None
    points = [tuple(map(float, point.split(","))) for point in line.attrib["points"].split()]
    assert points == [(0, HEIGHT), (WIDTH / 2, (HEIGHT + 4) / 2), (WIDTH, 4)]


def test_each_value_has_a_bar():
    _, svg = parsed(sparkline([2, 0, 1], "#0072b2", "Late", "bar"))
    bars = svg.findall(f"{SVG}rect")
    assert [float(bar.attrib["height"]) for bar in bars] == [44, 0, 22]
    assert float(bars[-1].attrib["x"]) + float(bars[-1].attrib["width"]) <= WIDTH


@pytest.mark.parametrize(
    ("values", "text"), [([], "p99: no values"), ([2.5], "p99: 2.5 to 2.5"), ([0, 0], "p99: 0 to 0")]
)
def test_few_or_equal_values_are_no_error(values: list[float], text: str):
    assert parsed(sparkline(values, "#0072b2", "p99"))[0] == text
