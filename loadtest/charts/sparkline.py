"""The course of a metric as a small picture: a browser draws it in a fraction of the time of a chart."""

from base64 import b64encode
from collections.abc import Sequence
from typing import Literal

WIDTH, HEIGHT = 100, 48
_TOP = 4
"""Keeps the line at the highest value inside the picture."""

Style = Literal["area", "bar"]


def sparkline(values: Sequence[float], color: str, name: str, style: Style = "area") -> str:
    """Return an HTML image as wide as its container, with 0 at the bottom. Without values it is empty."""
    highest = max(values, default=0) or 1
    heights = [(HEIGHT - _TOP) * max(value, 0) / highest for value in values]
    marks = _bars(heights) if style == "bar" else _area(heights)
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" preserveAspectRatio="none" '
        f'color="{color}">{marks}</svg>'
    )
    text = f"{name}: {min(values):,.4g} to {max(values):,.4g}" if values else f"{name}: no values"
    # Streamlit removes an SVG element from HTML, but not an image.
    source = f"data:image/svg+xml;base64,{b64encode(svg.encode()).decode()}"
    return (
        f'<img src="{source}" alt="{text}" title="{text}" '
        f'style="display: block; width: 100%; height: {HEIGHT}px">'
    )


def _area(heights: list[float]) -> str:
    if len(heights) < 2:
        return ""
    step = WIDTH / (len(heights) - 1)
    line = " ".join(f"{n * step:.1f},{HEIGHT - height:.1f}" for n, height in enumerate(heights))
    return (
        f'<polygon points="0,{HEIGHT} {line} {WIDTH},{HEIGHT}" fill="currentColor" opacity="0.2"/>'
        f'<polyline points="{line}" fill="none" stroke="currentColor" stroke-width="2" '
        'vector-effect="non-scaling-stroke"/>'
    )


def _bars(heights: list[float]) -> str:
    step = WIDTH / max(len(heights), 1)
    return "".join(
        f'<rect x="{(n + 0.1) * step:.1f}" y="{HEIGHT - height:.1f}" width="{0.8 * step:.1f}" '
        f'height="{height:.1f}" fill="currentColor"/>'
        for n, height in enumerate(heights)
    )
