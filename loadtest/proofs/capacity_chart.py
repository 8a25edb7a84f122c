"""Chart of a capacity search: late share and p99 by rate."""

from typing import TYPE_CHECKING

import plotly.graph_objects as go
from plotly.subplots import make_subplots

if TYPE_CHECKING:
    from loadtest.proofs.capacity import Probe

LATE, TIME, ALLOWED = "#c0392b", "#2c6fbb", "#888888"


def capacity_chart(probes: "list[Probe]", allowed: float, slo_seconds: float) -> go.Figure:
    """Return the chart. `allowed` is the share of orders that may be late."""
    ordered = sorted(probes, key=lambda probe: probe.rate)
    rates = [probe.rate for probe in ordered]
    labels = [f"{probe.verdict}: {probe.late} late of {probe.orders}" for probe in ordered]
    late = [100 * probe.late / max(probe.orders, 1) for probe in ordered]
    p99 = [None if probe.p99_ms is None else probe.p99_ms / 1000 for probe in ordered]
    chart = make_subplots(specs=[[{"secondary_y": True}]])
    line = {"x": rates, "text": labels, "mode": "lines+markers"}
    chart.add_trace(go.Scatter(y=late, name="late, %", line={"color": LATE}, **line))
    chart.add_trace(go.Scatter(y=p99, name="p99, s", line={"color": TIME}, **line), secondary_y=True)
    chart.add_hline(y=100 * allowed, line={"color": ALLOWED, "dash": "dash"})
    chart.add_hline(y=slo_seconds, line={"color": TIME, "dash": "dot"}, secondary_y=True)
    chart.update_layout(
        title="Late orders and p99 of completion by rate",
        xaxis_title="orders per second",
        template="plotly_white",
    )
    chart.update_yaxes(title_text="late orders, %", rangemode="tozero", secondary_y=False)
    chart.update_yaxes(title_text="p99 of completion, s", rangemode="tozero", secondary_y=True)
    return chart
