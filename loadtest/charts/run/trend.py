"""Load tests over time: completion times, late share and throughput, against a baseline."""

from collections.abc import Sequence

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from db.database import Row
from db.read_models.percentiles import min_count
from loadtest.charts import plain_text
from loadtest.charts.palette import Palette, apply_layout

HEIGHT = 520


def trend(rows: Sequence[Row], palette: Palette) -> go.Figure:
    """Return one figure with a point for each run that has a verdict.

    `rows` come from `db.read_models.stored_runs.newest_runs`. The custom data of each point is its run id.
    """
    judged = sorted((row for row in rows if row["verdict"] is not None), key=lambda row: row["started_at"])
    baseline = next((row for row in judged if row["is_baseline"]), None)
    figure = make_subplots(rows=3, shared_xaxes=True, vertical_spacing=0.06, row_heights=[0.46, 0.27, 0.27])
    series = (
        (1, "p99, s", _p99, palette.accent, "dash"),
        (1, "p50, s", _p50, palette.success, "solid"),
        (2, "late, %", _late_percent, palette.error, "solid"),
        (3, "outcomes / s", lambda row: row["completed_rate"], palette.info, "solid"),
    )
    for panel, name, value_of, color, dash in series:
        figure.add_scatter(
            x=[row["started_at"] for row in judged],
            y=[value_of(row) for row in judged],
            row=panel,
            col=1,
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
            figure.add_hline(
                value_of(baseline), row=panel, col=1, line={"color": color, "width": 1, "dash": "dot"}
            )
    apply_layout(figure, palette, height=HEIGHT)
    for panel, title in ((1, "completion, s"), (2, "late, %"), (3, "outcomes / s")):
        figure.update_yaxes(title=title, rangemode="tozero", row=panel, col=1)
    figure.update_xaxes(title="started (UTC)", row=3, col=1)
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
