"""Axes of time in seconds on a logarithmic scale, and the bands that say what else was going on."""

import math
from datetime import datetime

import plotly.graph_objects as go

from dashboard import plain_text
from dashboard.charts.palette import Palette, add_marks
from dashboard.view_models.disturbance_spans import disturbed_times
from db.read_models.latency import Disturbance, FaultSpan

MAX_BANDS = 60
MAX_NAMED = 12
_TICKS = (0.1, 0.5, 1, 2, 5, 15, 60, 300, 3_600)


def log_seconds(ms: float) -> float:
    """Where a time lies on a logarithmic axis of seconds; 0 ms lies where 1 ms does."""
    return math.log10(max(ms, 1.0) / 1000)


def log_ticks(low_ms: float, high_ms: float) -> dict[str, object]:
    """Ticks in round seconds for an axis from `low_ms` to `high_ms`."""
    shown = [each for each in _TICKS if low_ms * 0.9 <= each * 1000 <= high_ms * 1.1]
    return {
        "tickvals": [log_seconds(each * 1000) for each in shown],
        "ticktext": [f"{each:g} s" for each in shown],
        "tickangle": 0,
    }


def bands(
    figure: go.Figure,
    palette: Palette,
    faults: list[FaultSpan],
    disturbances: list[Disturbance],
    since: datetime,
    until: datetime,
    limit_seconds: float,
) -> None:
    """Draws each time in which faults were in force as a band, and each disturbance as a line where it began,
    with a band as long as it could be felt.

    A time with more of them than can be told apart shows the newest MAX_BANDS of each; beyond MAX_NAMED they
    are drawn without their names.
    """
    spans = [
        (max(start, since), min(end or until, until), name)
        for start, end, name in _merged(faults)
        if name != "none"
    ]
    spans = [(start, end, name) for start, end, name in spans if start < end][-MAX_BANDS:]
    disturbed = [each for each in disturbed_times(disturbances, limit_seconds) if each.since <= until][
        -MAX_BANDS:
    ]
    shapes: list[dict[str, object]] = [
        {
            "type": "rect", "xref": "x", "yref": "paper", "x0": start, "x1": end, "y0": 0, "y1": 1,
            "fillcolor": palette.band, "opacity": 0.10, "line": {"width": 0}, "layer": "below",
        }
        for start, end, _ in spans
    ]  # fmt: skip
    shapes += [
        {
            "type": "rect", "xref": "x", "yref": "paper", "x0": max(each.since, since),
            "x1": min(each.until or until, until), "y0": 0, "y1": 1,
            "fillcolor": palette.text, "opacity": 0.12, "line": {"width": 0}, "layer": "below",
        }
        for each in disturbed if each.until != each.since
    ]  # fmt: skip
    shapes += [
        {
            "type": "line", "xref": "x", "yref": "paper", "x0": each.since, "x1": each.since,
            "y0": 0, "y1": 1, "line": {"color": palette.text, "width": 1, "dash": "dot"},
        }
        for each in disturbed
    ]  # fmt: skip
    names = [(start, name, 0.0, palette.band, 0) for start, _, name in spans[-MAX_NAMED:]]
    names += [(each.since, each.name, 1.0, palette.text, -90) for each in disturbed[-MAX_NAMED:]]
    annotations: list[dict[str, object]] = [
        {
            "xref": "x", "yref": "paper", "x": at, "y": y, "text": plain_text.chart(name), "showarrow": False,
            "xanchor": "left", "yanchor": "bottom" if y == 0 else "top", "textangle": angle,
            "font": {"size": 11, "color": colour},
        }
        for at, name, y, colour, angle in (names)
    ]  # fmt: skip
    # All at once: each of Plotly's own add_vrect takes a tenth of a second in a figure that has many.
    add_marks(figure, shapes, annotations)


def _merged(faults: list[FaultSpan]) -> list[tuple[datetime, datetime | None, str]]:
    """One span where the same profile was put in force again, perhaps with another seed."""
    found: list[tuple[datetime, datetime | None, str]] = []
    for each in faults:
        if found and found[-1][2] == each.profile and found[-1][1] == each.since:
            found[-1] = (found[-1][0], each.until, each.profile)
        else:
            found.append((each.since, each.until, each.profile))
    return found
