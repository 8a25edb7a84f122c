"""Logarithmic time axes, and the marks of fault profiles and disturbances on a time axis."""

import math
from datetime import datetime, timedelta
from typing import NamedTuple

from db.read_models.latency import Disturbance, FaultSpan, Plan
from loadtest.charts import plain_text
from loadtest.charts.disturbance_spans import disturbance_spans
from loadtest.charts.palette import Marks, Palette

MAX_BANDS = 60
MAX_LABELS = 12
LABEL_SHARE = 0.08
"""Width of the name of a fault profile, as a share of the chart."""

BAND_OPACITY = 0.1
_TICKS_SECONDS = (0.1, 0.5, 1, 2, 5, 15, 60, 300, 3_600)


class TimeRange(NamedTuple):
    """The orders of a chart, and what affected them."""

    plan: Plan
    limit_ms: int
    faults: list[FaultSpan]
    disturbances: list[Disturbance]


def log_seconds(ms: float) -> float:
    """Return the coordinate of a time on a logarithmic axis of seconds. 0 ms is drawn as 1 ms."""
    return math.log10(max(ms, 1.0) / 1000)


def log_ticks(low_ms: float, high_ms: float) -> dict[str, object]:
    """Return axis properties with ticks in round seconds from `low_ms` to `high_ms`."""
    shown = [each for each in _TICKS_SECONDS if low_ms * 0.9 <= each * 1000 <= high_ms * 1.1]
    return {
        "tickvals": [log_seconds(each * 1000) for each in shown],
        "ticktext": [f"{each:g} s" for each in shown],
        "tickangle": 0,
    }


def faults_and_disturbances(palette: Palette, time_range: TimeRange) -> Marks:
    """Return each active fault profile as a band, and each disturbance as a line and the band of its effect.

    Returns the newest MAX_BANDS of each. The newest MAX_LABELS have a label, except where it would cover the
    label before it.
    """
    since, until = time_range.plan.since, time_range.plan.until
    profiles = [
        (max(start, since), min(end or until, until), name)
        for start, end, name in _merged(time_range.faults)
        if name != "none" and max(start, since) < min(end or until, until)
    ][-MAX_BANDS:]
    spans = disturbance_spans(time_range.disturbances, time_range.limit_ms / 1000)
    spans = [each for each in spans if each.since <= until][-MAX_BANDS:]
    shapes: list[dict[str, object]] = [
        _band(start, end, palette.band, BAND_OPACITY) for start, end, _ in profiles
    ]
    shapes += [
        _band(max(each.since, since), min(each.until or until, until), palette.text, 0.12)
        for each in spans
        if each.until != each.since
    ]
    shapes += [
        {
            "type": "line", "xref": "x", "yref": "paper", "x0": each.since, "x1": each.since,
            "y0": 0, "y1": 1, "line": {"color": palette.text, "width": 1, "dash": "dot"},
        }
        for each in spans
    ]  # fmt: skip
    labels = [
        _label(start, name, palette.band, y=0)
        for start, name in _spaced(
            [(start, name) for start, _, name in profiles], (until - since) * LABEL_SHARE
        )
    ]
    labels += [_label(each.since, each.name, palette.text, y=1, angle=-90) for each in spans[-MAX_LABELS:]]
    return Marks(shapes, labels)


def _spaced(names: list[tuple[datetime, str]], distance: timedelta) -> list[tuple[datetime, str]]:
    """Return the newest names that have at least this distance from the name before."""
    kept: list[tuple[datetime, str]] = []
    for at, name in names:
        if not kept or at - kept[-1][0] >= distance:
            kept.append((at, name))
    return kept[-MAX_LABELS:]


def _band(start: datetime, end: datetime, color: str, opacity: float) -> dict[str, object]:
    return {
        "type": "rect", "xref": "x", "yref": "paper", "x0": start, "x1": end, "y0": 0, "y1": 1,
        "fillcolor": color, "opacity": opacity, "line": {"width": 0}, "layer": "below",
    }  # fmt: skip


def _label(at: datetime, name: str, color: str, *, y: int, angle: int = 0) -> dict[str, object]:
    return {
        "xref": "x", "yref": "paper", "x": at, "y": y, "text": plain_text.chart(name), "showarrow": False,
        "xanchor": "left", "yanchor": "top" if y else "bottom", "textangle": angle,
        "font": {"size": 11, "color": color},
    }  # fmt: skip


def _merged(faults: list[FaultSpan]) -> list[tuple[datetime, datetime | None, str]]:
    """Merge adjacent spans of the same profile, which may differ in their seed."""
    merged: list[tuple[datetime, datetime | None, str]] = []
    for each in faults:
        if merged and merged[-1][2] == each.profile and merged[-1][1] == each.since:
            merged[-1] = (merged[-1][0], each.until, each.profile)
        else:
            merged.append((each.since, each.until, each.profile))
    return merged
