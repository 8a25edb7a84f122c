"""The charts of `report.html`."""

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import plotly.graph_objects as go

from db.domain import State
from db.read_models.latency import Bucket, Disturbance, FaultSpan, Slice, ecdf_shares
from db.read_models.latency_buckets import EDGES_MS
from db.read_models.order_search import OrderDetails
from db.read_models.percentiles import percentile
from db.read_models.run_timeline import SHARES, RunTimeline, seconds_of, slice_width
from loadtest.charts.distribution import by_percentile, histogram
from loadtest.charts.order.timeline import timeline
from loadtest.charts.palette import LIGHT
from loadtest.charts.run.time_axis import run_time_axis
from loadtest.charts.run.why_late import explanation, waterfall, why_late
from loadtest.charts.time_breakdown import time_breakdown
from loadtest.generator.recording import OrderRecord
from loadtest.reports.run_details import RunDetails
from loadtest.verdict.percentiles import per_second

Completion = tuple[int, State]
"""Completion time in ms, and the outcome."""


@dataclass(frozen=True)
class Chart:
    """`description` is the text below the title and for screen readers."""

    title: str
    description: str
    figure: go.Figure

    def to_json(self) -> str:
        text: str = self.figure.to_json(engine="json")
        return text


def time_axis_chart(
    started_at: datetime,
    records: Sequence[OrderRecord],
    limit_seconds: float,
    faults: list[FaultSpan],
    disturbances: list[Disturbance],
) -> Chart:
    """Return the run on one time axis, from the records of the load generator."""
    seconds = seconds_of(per_second(records))
    width = slice_width(sum(each.accepted for each in seconds), len(seconds))
    times: dict[int, list[float]] = defaultdict(list)
    for record in records:
        if record.accepted is not None and record.completion_ms is not None:
            times[int(record.accepted // width)].append(record.completion_ms)
    slices = [
        Slice(
            started_at + timedelta(seconds=number * width),
            len(found),
            {share: round(percentile(sorted(found), share)) for share in SHARES},
        )
        for number, found in sorted(times.items())
    ]
    timeline = RunTimeline(started_at, limit_seconds, seconds, slices, width, faults, disturbances)
    return Chart(
        "The run over time",
        "Load, orders in flight, send delay and completion times by time of acceptance, with fault profiles "
        "and disturbances.",
        run_time_axis(timeline, LIGHT),
    )


def distribution_charts(
    completions: Sequence[Completion], limit_seconds: float, target: float
) -> list[Chart]:
    """Return the histogram and the percentiles of the orders with an outcome; none without such an order."""
    if not completions:
        return []
    limit_ms = round(limit_seconds * 1000)
    times = sorted(ms for ms, _ in completions)
    curve = [(round(percentile(times, share)), share) for share in ecdf_shares(len(times))]
    return [
        Chart(
            "Histogram",
            f"Orders with an outcome by completion time. The dashed line is the limit, {limit_seconds:g} s.",
            histogram(buckets(completions), LIGHT, limit_ms, times[-1]),
        ),
        Chart(
            "Completion time by percentile",
            f"The dotted line is the target: {100 * target:g} % within {limit_seconds:g} s.",
            by_percentile(curve, len(times), LIGHT, limit_ms, target),
        ),
    ]


def buckets(completions: Sequence[Completion]) -> list[Bucket]:
    """Return the histogram with the rollup's edges, without empty buckets."""
    counts: dict[int, Counter[State]] = defaultdict(Counter)
    for ms, outcome in completions:
        counts[EDGES_MS[bisect_left(EDGES_MS, ms)]][outcome] += 1
    return [Bucket(upto_ms, dict(counts[upto_ms])) for upto_ms in sorted(counts)]


def why_late_charts(details: RunDetails, limit_seconds: float) -> list[Chart]:
    """Return a waterfall for the late and one for the slow orders, if there are any."""
    charts = []
    for name, group in (("late", details.groups.late), ("slow", details.groups.slow)):
        if group is None or details.groups.on_time is None:
            continue
        found = why_late(group, details.groups.on_time, details.disturbance_names)
        figure = waterfall(found, name, LIGHT, limit_seconds)
        charts.append(Chart(f"Why were orders {name}?", explanation(found, name), figure))
    return charts


def breakdown_charts(details: RunDetails, limit_seconds: float) -> list[Chart]:
    if not details.slowest:
        return []
    return [
        Chart(
            f"Time breakdown of the {len(details.slowest)} slowest orders",
            "The parts of a bar sum to the completion time of the order.",
            time_breakdown(details.slowest, LIGHT, round(limit_seconds * 1000)),
        )
    ]


def timeline_chart(details: OrderDetails) -> Chart:
    order = details.order
    outcome = f"{order['state']}, {order['completion_ms'] / 1000:.3f} s"
    return Chart(
        f"{order['order_id']}: {outcome}",
        "Attempts, waiting times and requests in seconds since acceptance.",
        timeline(details, LIGHT),
    )
