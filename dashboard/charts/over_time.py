"""Completion times over the time of acceptance: percentiles, and how many orders took how long."""

from collections.abc import Sequence
from datetime import datetime, timedelta

import plotly.graph_objects as go

from dashboard.charts.axes import bands, log_seconds, log_ticks
from dashboard.charts.palette import Palette, framed, limit_line
from db.read_models.latency import Cell, Disturbance, FaultSpan, Plan, Slice, edge_below

HEIGHT = 340
_LINES = ((0.5, "p50", "solid"), (0.95, "p95", "dash"), (0.99, "p99", "dot"), (1.0, "longest", "dashdot"))


def percentiles(
    slices: Sequence[Slice],
    how: Plan,
    palette: Palette,
    limit_ms: int,
    faults: list[FaultSpan],
    disturbances: list[Disturbance],
) -> go.Figure:
    """p50, p95, p99 and the longest of each slice of time, in seconds; slices without orders are gaps."""
    figure = go.Figure()
    colours = (palette.good, palette.calm, palette.accent, palette.warn)
    at, rows = _with_gaps(slices, how)
    for (share, name, dash), colour in zip(_LINES, colours, strict=True):
        figure.add_scatter(
            x=at,
            y=[None if row is None else row.times_ms[share] / 1000 for row in rows],
            name=name,
            mode="lines+markers",
            marker={"size": 4},
            line={"color": colour, "width": 2, "dash": dash},
            customdata=[0 if row is None else row.orders for row in rows],
            hovertemplate="%{x|%H:%M:%S}  " + name + " %{y:.3f} s of %{customdata:,} orders<extra></extra>",
        )
    framed(figure, palette, height=HEIGHT)
    figure.update_yaxes(title="completion, s", rangemode="tozero")
    figure.update_xaxes(title="accepted (UTC)", range=[how.since, how.until])
    limit_line(figure, palette, limit_ms / 1000, limit_ms / 1000, vertical=False)
    bands(figure, palette, faults, disturbances, how.since, how.until, limit_ms / 1000)
    return figure


def heatmap(
    cells: Sequence[Cell],
    how: Plan,
    palette: Palette,
    limit_ms: int,
    faults: list[FaultSpan],
    disturbances: list[Disturbance],
) -> go.Figure:
    """How many orders of each slice of time took how long."""
    # Every bucket and every slice between the first and the last: Plotly would stretch a cell over a gap.
    rows = _edges(min(cell.upto_ms for cell in cells), max(cell.upto_ms for cell in cells)) if cells else []
    columns = _slices(cells, timedelta(seconds=how.slice_seconds))
    counts = {(cell.upto_ms, cell.at): cell.orders for cell in cells}
    figure = go.Figure(
        go.Heatmap(
            # Edges, not middles: a lone slice is as wide as any other.
            x=[*columns, columns[-1] + timedelta(seconds=how.slice_seconds)] if columns else [],
            y=[log_seconds(edge) for edge in (edge_below(rows[0]), *rows)] if rows else [],
            z=[[counts.get((edge, at)) for at in columns] for edge in rows],
            customdata=[
                [f"{edge_below(edge) / 1000:.2f} s to {edge / 1000:.2f} s"] * len(columns) for edge in rows
            ],
            colorscale=[[n / 4, colour] for n, colour in enumerate(palette.scale[1:])],
            colorbar={"thickness": 8},
            hovertemplate="%{x|%H:%M:%S}  %{customdata}: %{z:,} orders<extra></extra>",
            hoverongaps=False,
            xgap=1,
        )
    )
    framed(figure, palette, height=HEIGHT)
    top = max(rows[-1] if rows else 0, limit_ms)
    figure.update_yaxes(title="completion", **log_ticks(edge_below(rows[0]) if rows else 1000, top))
    figure.update_xaxes(title="accepted (UTC)", range=[how.since, how.until])
    limit_line(figure, palette, log_seconds(limit_ms), limit_ms / 1000, vertical=False)
    bands(figure, palette, faults, disturbances, how.since, how.until, limit_ms / 1000)
    return figure


def _slices(cells: Sequence[Cell], width: timedelta) -> list[datetime]:
    """The beginnings of all slices from the first cell's to the last one's."""
    if not cells:
        return []
    first, last = min(cell.at for cell in cells), max(cell.at for cell in cells)
    return [first + width * n for n in range(round((last - first) / width) + 1)]


def _edges(first: int, last: int) -> list[int]:
    edges = [last]
    while edges[-1] > first and edge_below(edges[-1]) > 0:
        edges.append(edge_below(edges[-1]))
    return edges[::-1]


def _with_gaps(slices: Sequence[Slice], how: Plan) -> tuple[list[object], list[Slice | None]]:
    """The slices with an empty one after each that has no neighbour, so that no line crosses a gap."""
    at: list[object] = []
    rows: list[Slice | None] = []
    width = timedelta(seconds=how.slice_seconds)
    for number, row in enumerate(slices):
        at.append(row.at + width / 2)
        rows.append(row)
        if number + 1 < len(slices) and slices[number + 1].at > row.at + width:
            at.append(row.at + width * 1.5)
            rows.append(None)
    return at, rows
