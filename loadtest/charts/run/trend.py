"""Load tests over time: completion times, late share and throughput, against a baseline."""

from collections.abc import Sequence

import plotly.graph_objects as go

from db.database import Row
from db.read_models.percentiles import min_count
from loadtest.charts import plain_text
from loadtest.charts.palette import Marks, Palette, set_layout

HEIGHT = 520

_PANELS = (
    ("yaxis", "completion, s", (0.5952, 1.0)),
    ("yaxis2", "late, %", (0.2976, 0.5352)),
    ("yaxis3", "outcomes / s", (0.0, 0.2376)),
)
"""Axis, title and domain of each panel, from top to bottom."""


def trend(rows: Sequence[Row], palette: Palette) -> go.Figure:
    """Return one figure with a point for each run that has a verdict.

    `rows` come from `db.read_models.stored_runs.newest_runs`. The custom data of each point is its run id.
    """
    judged = sorted((row for row in rows if row["verdict"] is not None), key=lambda row: row["started_at"])
    baseline = next((row for row in judged if row["is_baseline"]), None)
    figure = go.Figure()
    baselines = []
    series = (
        ("y", "p99, s", _p99, palette.accent, "dash"),
        ("y", "p50, s", _p50, palette.success, "solid"),
        ("y2", "late, %", _late_percent, palette.error, "solid"),
        ("y3", "outcomes / s", lambda row: row["completed_rate"], palette.info, "solid"),
    )
    for panel, name, value_of, color, dash in series:
        figure.add_scatter(
            x=[row["started_at"] for row in judged],
            y=[value_of(row) for row in judged],
            yaxis=panel,
            name=name,
            mode="lines+markers",
            marker={"size": 8, "symbol": ["star" if row is baseline else "circle" for row in judged]},
            line={"color": color, "width": 1.5, "dash": dash},
            customdata=[row["run_id"] for row in judged],
            cliponaxis=False,
            text=[_hover(row) for row in judged],
            hovertemplate="%{text}<br>" + name + ": %{y:.4~g}<extra></extra>",
        )
        if baseline is not None and value_of(baseline) is not None:
            at = value_of(baseline)
            line = {"color": color, "width": 1, "dash": "dot"}
            place = {"xref": "paper", "x0": 0, "x1": 1, "yref": panel, "y0": at, "y1": at}
            baselines.append({"type": "line", "line": line, **place})
    yaxes = {
        axis: {"title": title, "domain": domain, "rangemode": "tozero"} for axis, title, domain in _PANELS
    }
    # Below the last panel.
    xaxis = {"title": "started (UTC)", "anchor": "y3"}
    marks = [Marks(baselines, [])]
    set_layout(figure, palette, height=HEIGHT, axes={"xaxis": xaxis, **yaxes}, marks=marks)
    return figure


def _p50(row: Row) -> float | None:
    return None if row["p50_ms"] is None else row["p50_ms"] / 1000


def _p99(row: Row) -> float | None:
    is_enough = row["p99_ms"] is not None and row["counted_orders"] >= min_count(0.99)
    return row["p99_ms"] / 1000 if is_enough else None


def _late_percent(row: Row) -> float | None:
    return 100 * row["late_orders"] / row["counted_orders"] if row["counted_orders"] else None


def _hover(row: Row) -> str:
    label = f" ({plain_text.chart(row['label'])})" if row["label"] else ""
    pinned = ", baseline" if row["is_baseline"] else ""
    return f"{plain_text.chart(row['run_id'])}{label}{pinned}: {plain_text.chart(row['verdict'])}"
