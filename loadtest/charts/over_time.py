"""Completion times over the time of acceptance: percentiles and heatmap."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

import plotly.graph_objects as go

from db.read_models.latency import Cell, Slice
from db.read_models.latency_buckets import EDGES_MS, edge_below
from db.read_models.percentiles import min_count
from loadtest.charts.axes import TimeRange, faults_and_disturbances, log_seconds, log_ticks
from loadtest.charts.palette import Palette, horizontal_limit_line, set_layout

HEIGHT = 340
_LINES = ((0.5, "p50", "solid"), (0.95, "p95", "dash"), (0.99, "p99", "dot"), (1.0, "longest", "dashdot"))


def percentiles(slices: Sequence[Slice], time_range: TimeRange, palette: Palette) -> go.Figure:
    """Return p50, p95, p99 and the longest time of each time slice, in seconds.

    A slice with too few orders for a percentile has a gap in its line.
    """
    figure = go.Figure()
    colors = (palette.success, palette.info, palette.accent, palette.warning)
    at, rows = _with_gaps(slices, timedelta(seconds=time_range.plan.slice_seconds))
    for (share, name, dash), color in zip(_LINES, colors, strict=True):
        times = [
            None if row is None or row.orders < min_count(share) else row.times_ms[share] / 1000
            for row in rows
        ]
        if all(each is None for each in times):
            continue
        figure.add_scatter(
            x=at,
            y=times,
            name=name,
            mode="lines+markers",
            marker={"size": 4},
            line={"color": color, "width": 2, "dash": dash},
            customdata=[0 if row is None else row.orders for row in rows],
            hovertemplate="%{x|%H:%M:%S}  " + name + " %{y:.3f} s of %{customdata:,} orders<extra></extra>",
        )
    yaxis = {"title": "completion, s", "rangemode": "tozero"}
    _set_layout(figure, time_range, palette, yaxis, limit_at=time_range.limit_ms / 1000)
    return figure


def heatmap(cells: Sequence[Cell], time_range: TimeRange, palette: Palette) -> go.Figure:
    """Return the number of orders by time slice and completion time."""
    # Include empty buckets and slices: Plotly would stretch a cell over a gap.
    edges = _edges(min(cell.upto_ms for cell in cells), max(cell.upto_ms for cell in cells)) if cells else []
    width = timedelta(seconds=time_range.plan.slice_seconds)
    starts = _slice_starts(cells, width)
    counts = {(cell.upto_ms, cell.at): cell.orders for cell in cells}
    figure = go.Figure(
        go.Heatmap(
            # Edges instead of centers: with centers Plotly cannot know the width of a single slice.
            x=[*starts, starts[-1] + width] if starts else [],
            y=[log_seconds(_drawn_edge(edge)) for edge in (edge_below(edges[0]), *edges)] if edges else [],
            z=[[counts.get((edge, at)) for at in starts] for edge in edges],
            customdata=[[_range_text(edge)] * len(starts) for edge in edges],
            colorscale=[[n / 4, color] for n, color in enumerate(palette.scale[1:])],
            colorbar={"thickness": 8},
            hovertemplate="%{x|%H:%M:%S}  %{customdata}: %{z:,} orders<extra></extra>",
            hoverongaps=False,
            xgap=1,
        )
    )
    low_ms, high_ms = (edge_below(edges[0]), _drawn_edge(edges[-1])) if edges else (1000, 0)
    yaxis = {"title": "completion", **log_ticks(low_ms, max(high_ms, time_range.limit_ms))}
    _set_layout(figure, time_range, palette, yaxis, limit_at=log_seconds(time_range.limit_ms))
    return figure


def _set_layout(
    figure: go.Figure,
    time_range: TimeRange,
    palette: Palette,
    yaxis: Mapping[str, object],
    *,
    limit_at: float,
) -> None:
    # Not `range`: a refresh that changes it would reset the user's zoom. Plotly reads no dates here.
    since, until = (at.timestamp() * 1000 for at in (time_range.plan.since, time_range.plan.until))
    set_layout(
        figure,
        palette,
        height=HEIGHT,
        axes={
            "xaxis": {
                "title": "accepted (UTC)",
                "autorangeoptions": {"minallowed": since, "maxallowed": until},
            },
            "yaxis": yaxis,
        },
        marks=[
            horizontal_limit_line(palette, limit_at, time_range.limit_ms / 1000),
            faults_and_disturbances(palette, time_range),
        ],
    )


def _slice_starts(cells: Sequence[Cell], width: timedelta) -> list[datetime]:
    if not cells:
        return []
    first, last = min(cell.at for cell in cells), max(cell.at for cell in cells)
    return [first + width * n for n in range(round((last - first) / width) + 1)]


def _edges(first_ms: int, last_ms: int) -> list[int]:
    edges = [last_ms]
    while edges[-1] > first_ms and edge_below(edges[-1]) > 0:
        edges.append(edge_below(edges[-1]))
    return edges[::-1]


def _drawn_edge(upto_ms: int) -> int:
    """Return the drawn upper edge of a bucket. The last bucket, without one, ends at twice its lower edge."""
    return 2 * edge_below(upto_ms) if upto_ms == EDGES_MS[-1] else upto_ms


def _range_text(upto_ms: int) -> str:
    low = edge_below(upto_ms) / 1000
    return f"more than {low:.2f} s" if upto_ms == EDGES_MS[-1] else f"{low:.2f} s to {upto_ms / 1000:.2f} s"


def _with_gaps(slices: Sequence[Slice], width: timedelta) -> tuple[list[datetime], list[Slice | None]]:
    """Return slice centers and slices, with an empty slice in each gap so that no line crosses it."""
    at: list[datetime] = []
    rows: list[Slice | None] = []
    for number, row in enumerate(slices):
        at.append(row.at + width / 2)
        rows.append(row)
        if number + 1 < len(slices) and slices[number + 1].at > row.at + width:
            at.append(row.at + width * 1.5)
            rows.append(None)
    return at, rows
