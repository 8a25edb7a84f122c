"""Rate against late share and p99, as a PNG and as an HTML page."""

from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib
import plotly.graph_objects as go
from matplotlib.figure import Figure
from plotly.subplots import make_subplots

if TYPE_CHECKING:
    from loadtest.proofs.capacity import Probe

matplotlib.use("Agg")

LATE, TIME, ALLOWED = "#c0392b", "#2c6fbb", "#888888"
TITLE = "Orders a second against the share that is late, and p99 of completion"


def png(probes: "list[Probe]", allowed: float, slo_seconds: float, path: Path) -> None:
    """Draws the probes into a PNG. `allowed` is the share that may be late."""
    ordered = sorted(probes, key=lambda probe: probe.rate)
    figure = Figure(figsize=(9, 5), dpi=120, layout="constrained")
    share = figure.subplots()
    time = share.twinx()
    rates = [probe.rate for probe in ordered]
    share.plot(rates, [100 * probe.late_share for probe in ordered], "o-", color=LATE, label="late, %")
    share.axhline(100 * allowed, color=ALLOWED, linestyle="--", linewidth=1, label="allowed, %")
    timed = [(probe.rate, probe.p99_ms / 1000) for probe in ordered if probe.p99_ms is not None]
    time.plot([rate for rate, _ in timed], [p99 for _, p99 in timed], "s-", color=TIME, label="p99, s")
    time.axhline(slo_seconds, color=TIME, linestyle=":", linewidth=1)
    share.set_xlabel("orders a second")
    share.set_ylabel("late orders, %", color=LATE)
    share.set_ylim(bottom=0)
    time.set_ylabel("p99 of completion, s", color=TIME)
    time.set_ylim(bottom=0)
    share.set_title(TITLE)
    figure.legend(loc="outside lower center", ncols=3)
    figure.savefig(path)


def html(probes: "list[Probe]", allowed: float, slo_seconds: float, path: Path) -> None:
    """Draws the probes into a page that needs nothing else, not even a network."""
    figure(probes, allowed, slo_seconds).write_html(path, include_plotlyjs=True)


def figure(probes: "list[Probe]", allowed: float, slo_seconds: float) -> go.Figure:
    """The same as a Plotly figure."""
    ordered = sorted(probes, key=lambda probe: probe.rate)
    rates = [probe.rate for probe in ordered]
    drawn = make_subplots(specs=[[{"secondary_y": True}]])
    told = [f"{probe.verdict}: {probe.late} late of {probe.orders}" for probe in ordered]
    drawn.add_trace(
        go.Scatter(
            x=rates, y=[100 * probe.late_share for probe in ordered], text=told, name="late, %",
            mode="lines+markers", line={"color": LATE},
        )
    )  # fmt: skip
    p99 = [None if probe.p99_ms is None else probe.p99_ms / 1000 for probe in ordered]
    drawn.add_trace(
        go.Scatter(x=rates, y=p99, text=told, name="p99, s", mode="lines+markers", line={"color": TIME}),
        secondary_y=True,
    )
    drawn.add_hline(y=100 * allowed, line={"color": ALLOWED, "dash": "dash"})
    drawn.add_hline(y=slo_seconds, line={"color": TIME, "dash": "dot"}, secondary_y=True)
    drawn.update_layout(title=TITLE, xaxis_title="orders a second", template="plotly_white")
    drawn.update_yaxes(title_text="late orders, %", rangemode="tozero", secondary_y=False)
    drawn.update_yaxes(title_text="p99 of completion, s", rangemode="tozero", secondary_y=True)
    return drawn
