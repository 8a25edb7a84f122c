"""Orders started and finished and starts rejected per second, with fault profiles and disturbances."""

from collections.abc import Sequence
from datetime import timedelta

import plotly.graph_objects as go

from db.database import Row
from db.read_models.latency import Disturbance, FaultSpan, Plan, Selection
from loadtest.charts.axes import TimeRange, faults_and_disturbances
from loadtest.charts.palette import Palette, set_layout

HEIGHT = 220


def throughput_chart(
    rows: Sequence[Row],
    palette: Palette,
    *,
    limit_ms: int,
    faults: Sequence[FaultSpan] = (),
    disturbances: Sequence[Disturbance] = (),
) -> go.Figure:
    """Return a chart with a line for each rate; for rejected starts only if there are any.

    `rows` come from `db.read_models.live_orders.throughput`.
    """
    figure = go.Figure()
    lines = [("started", palette.info, "solid"), ("finished", palette.success, "dot")]
    if any(row["rejected"] for row in rows):
        lines.append(("rejected", palette.warning, "dash"))
    for column, color, dash in lines:
        figure.add_scatter(
            x=[row["at"] for row in rows],
            y=[row[column] for row in rows],
            name=f"{column} per second",
            mode="lines",
            line={"color": color, "width": 2, "dash": dash, "shape": "hv"},
            hovertemplate="%{x|%H:%M:%S}  %{y}<extra></extra>",
        )
    highest = max((row[column] for row in rows for column, *_ in lines), default=0)
    xaxis: dict[str, object] = {"showgrid": False}
    marks = []
    if rows:
        since, until = rows[0]["at"], rows[-1]["at"] + timedelta(seconds=1)
        plan = Plan(Selection(), since, until, is_exact=True)
        time_range = TimeRange(plan, limit_ms, list(faults), list(disturbances))
        marks.append(faults_and_disturbances(palette, time_range))
        xaxis["range"] = [since, until]
    yaxis: dict[str, object] = {"range": [0, max(4, highest * 1.15)]}
    axes = {"xaxis": xaxis, "yaxis": yaxis}
    set_layout(figure, palette, height=HEIGHT, axes=axes, marks=marks, zoom=False)
    return figure


def mean_rate(rows: Sequence[Row], column: str, seconds: int = 10) -> float:
    """Return the mean of a column over the last `seconds` rows, which are one second each; 0 without rows."""
    recent = [row[column] for row in rows[-seconds:]]
    return sum(recent) / len(recent) if recent else 0.0


def in_flight_history(rows: Sequence[Row], in_flight_now: int) -> list[int]:
    """Return the number of orders in flight at the end of each second of `rows`."""
    counts = [in_flight_now]
    for row in reversed(rows[1:]):
        # A few orders may have started since the last whole second.
        counts.append(max(0, counts[-1] - row["started"] + row["finished"]))
    return counts[::-1] if rows else []
