"""A load test on one time axis: load, orders in flight, send delay and completion times."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import plotly.graph_objects as go

from db.read_models.latency import Plan, Selection
from db.read_models.percentiles import min_count
from db.read_models.run_timeline import RunSecond, RunTimeline
from loadtest.charts.axes import TimeRange, faults_and_disturbances
from loadtest.charts.palette import Palette, horizontal_limit_line, set_layout

HEIGHT = 760
MAX_POINTS = 1_200
"""Points of a line. A longer run is drawn with several seconds in one point."""


class _Panel(NamedTuple):
    axis: str
    title: str
    domain: tuple[float, float]


_LOAD = _Panel("y", "orders / s", (0.72, 1.0))
_IN_FLIGHT = _Panel("y2", "in flight", (0.52, 0.68))
_SEND_DELAY = _Panel("y3", "send delay, ms", (0.34, 0.48))
_COMPLETION = _Panel("y4", "completion, s", (0.0, 0.30))
_PANELS = (_LOAD, _IN_FLIGHT, _SEND_DELAY, _COMPLETION)


class _Point(NamedTuple):
    """Consecutive seconds of a run, drawn as one point. The counts are per second."""

    at: datetime
    second: int
    offered: float
    accepted: float
    finished: float
    late: float
    in_flight: int
    send_delay_ms: float | None


def run_time_axis(timeline: RunTimeline, palette: Palette, *, zoom: bool = True) -> go.Figure:
    """Return one figure with four panels over one time axis, with fault profiles and disturbances.

    The custom data of each point is its second of the run, as text.
    """
    figure = go.Figure()
    points = _points(timeline)
    _draw_load(figure, points, palette)
    in_flight = [each.in_flight for each in points]
    _line(figure, _IN_FLIGHT, points, "in flight", in_flight, palette.accent, showlegend=False)
    delays = [each.send_delay_ms for each in points]
    _line(figure, _SEND_DELAY, points, "longest send delay, ms", delays, palette.info, showlegend=False)
    _draw_completion(figure, timeline, palette)
    since, until = timeline.started_at, timeline.until
    limit = timeline.limit_seconds
    plan = Plan(Selection(), since, until, is_exact=True)
    time_range = TimeRange(plan, round(limit * 1000), timeline.faults, timeline.disturbances)
    yaxes = {
        f"yaxis{panel.axis[1:]}": {
            "domain": panel.domain,
            "title": panel.title,
            "rangemode": "tozero",
            "anchor": "x",
        }
        for panel in _PANELS
    }
    set_layout(
        figure,
        palette,
        height=HEIGHT,
        axes={"xaxis": {"title": "UTC", "range": [since, until], "anchor": _COMPLETION.axis}, **yaxes},
        marks=[
            horizontal_limit_line(palette, limit, limit, yaxis=_COMPLETION.axis, width="paper"),
            faults_and_disturbances(palette, time_range),
        ],
        zoom=zoom,
        # All panels use the same axis, so that the hover box shows the values of all of them.
        hovermode="x unified",
        hoversubplots="axis",
    )
    return figure


def seconds_per_point(timeline: RunTimeline) -> int:
    """Return the number of seconds that a point of the chart stands for."""
    return -(-len(timeline.seconds) // MAX_POINTS) or 1


def _draw_load(figure: go.Figure, points: Sequence[_Point], palette: Palette) -> None:
    figure.add_bar(
        x=[each.at for each in points],
        y=[each.late for each in points],
        name="late (by time due)",
        marker={"color": palette.error, "line": {"width": 0}},
        customdata=[str(each.second) for each in points],
        hovertemplate="%{y:,.4~g} at +%{customdata} s",
    )
    # Offered and accepted are mostly equal: the wide line stays visible below the dashed one.
    wide, dashed = {"width": 5}, {"dash": "dash"}
    _line(figure, _LOAD, points, "offered", [each.offered for each in points], palette.muted, line=wide)
    _line(figure, _LOAD, points, "accepted", [each.accepted for each in points], palette.info, line=dashed)
    _line(figure, _LOAD, points, "finished", [each.finished for each in points], palette.success)


def _draw_completion(figure: go.Figure, timeline: RunTimeline, palette: Palette) -> None:
    half = timedelta(seconds=timeline.slice_seconds / 2)
    shown = (
        (1.0, "slowest", palette.warning, "dot"),
        (0.99, "p99", palette.accent, "dash"),
        (0.5, "p50", palette.success, "solid"),
    )
    for share, name, color, dash in shown:
        needed = min_count(share)
        figure.add_scatter(
            x=[each.at + half for each in timeline.slices],
            y=[each.times_ms[share] / 1000 if each.orders >= needed else None for each in timeline.slices],
            yaxis=_COMPLETION.axis,
            name=name,
            mode="lines+markers",
            marker={"size": 4},
            line={"color": color, "width": 2, "dash": dash},
            text=[f"{each.orders:,} orders in {timeline.slice_seconds} s" for each in timeline.slices],
            customdata=[
                str((each.at + half - timeline.started_at) // timedelta(seconds=1))
                for each in timeline.slices
            ],
            hovertemplate="%{y:.3f} s (%{text})",
        )


def _line(
    figure: go.Figure,
    panel: _Panel,
    points: Sequence[_Point],
    name: str,
    values: Sequence[float | None],
    color: str,
    *,
    line: dict[str, Any] | None = None,
    showlegend: bool = True,
) -> None:
    figure.add_scatter(
        x=[each.at for each in points],
        y=values,
        yaxis=panel.axis,
        name=name,
        # A click selects markers, not lines, but also markers that are not drawn. Drawing one for each second
        # of a run takes the browser a noticeable time.
        mode="lines+markers",
        marker={"size": 3, "maxdisplayed": 1},
        line={"color": color, "width": 2} | (line or {}),
        showlegend=showlegend,
        customdata=[str(each.second) for each in points],
        hovertemplate="%{y:,.4~g}",
    )


def _points(timeline: RunTimeline) -> list[_Point]:
    width = seconds_per_point(timeline)
    starts = range(0, len(timeline.seconds), width)
    return [_point(timeline.started_at, timeline.seconds[start : start + width]) for start in starts]


def _point(started_at: datetime, rows: Sequence[RunSecond]) -> _Point:
    count = len(rows)
    delays = [row.send_delay_ms for row in rows if row.send_delay_ms is not None]
    return _Point(
        started_at + timedelta(seconds=rows[0].second),
        rows[0].second,
        sum(row.offered for row in rows) / count,
        sum(row.accepted for row in rows) / count,
        sum(row.finished for row in rows) / count,
        sum(row.late for row in rows) / count,
        rows[-1].in_flight,
        max(delays, default=None),
    )
