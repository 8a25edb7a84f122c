"""Why orders were late or slow: what each step, waiting and each disturbance added to their mean time.

docs/explanation/why-late.md explains the rules.
"""

import math
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from fractions import Fraction
from itertools import pairwise
from typing import NamedTuple

import plotly.graph_objects as go

from db.read_models.latency import Disturbance
from db.read_models.time_groups import PARTS, TimeGroup, Window
from loadtest.charts import plain_text
from loadtest.charts.disturbance_spans import disturbance_spans
from loadtest.charts.palette import Palette, limit_line, set_layout

MAX_DISTURBANCES = 6
"""Disturbances with a bar of their own: those with the largest contributions."""

OTHERS = "other disturbances"
ROW_HEIGHT = 34


class Contribution(NamedTuple):
    """What a step, waiting or a disturbance adds to the mean completion time, in ms; negative if it was
    shorter than in the on-time orders."""

    name: str
    ms: int


class WhyLate(NamedTuple):
    """`on_time_ms` plus all contributions is exactly `group_ms`; both are mean completion times."""

    on_time_ms: int
    contributions: list[Contribution]
    group_ms: int
    orders: int


def disturbance_windows(
    disturbances: Sequence[Disturbance], started_at: datetime, until: datetime, limit_seconds: float
) -> tuple[list[Window], dict[int, str]]:
    """Return the windows of the disturbances, and the name of each disturbance by its number.

    The windows do not overlap: a time in several spans belongs to the disturbance that began last.
    """
    spans = [
        (each.since, min(each.until or until, until), each.name)
        for each in disturbance_spans(disturbances, limit_seconds)
    ]
    edges = sorted({edge for since, end, _ in spans for edge in (since, end)})
    windows: list[Window] = []
    for start, end in pairwise(edges):
        active = [number for number, (since, ended, _) in enumerate(spans) if since <= start and end <= ended]
        if not active:
            continue
        number = active[-1]
        if windows and windows[-1].number == number and windows[-1].until == start:
            windows[-1] = windows[-1]._replace(until=end)
        else:
            windows.append(Window(number, start, end))
    names = {
        number: f"{name.partition(' (')[0]} at +{(since - started_at) / timedelta(seconds=1):.0f} s"
        for number, (since, _, name) in enumerate(spans)
    }
    return windows, names


def why_late(group: TimeGroup, on_time: TimeGroup, disturbances: Mapping[int, str]) -> WhyLate:
    """Compare the mean times of a group with those of the on-time orders, in whole milliseconds."""

    def added(group_ms: int, on_time_ms: int) -> Fraction:
        return Fraction(group_ms, group.orders) - Fraction(on_time_ms, on_time.orders)

    disturbed = {
        number: added(group.disturbed_ms.get(number, 0), on_time.disturbed_ms.get(number, 0))
        for number in sorted({*group.disturbed_ms, *on_time.disturbed_ms})
    }
    largest = sorted(disturbed, key=lambda number: -abs(disturbed[number]))[:MAX_DISTURBANCES]
    parts = [(part, added(group.parts_ms[part], on_time.parts_ms[part])) for part in PARTS[:-1]]
    waiting = added(group.parts_ms["waiting"], on_time.parts_ms["waiting"])
    parts.append(("waiting", waiting - sum(disturbed.values())))
    parts += [(disturbances[number], ms) for number, ms in disturbed.items() if number in largest]
    parts.append((OTHERS, sum((disturbed[each] for each in disturbed if each not in largest), Fraction())))
    # Both means are rounded down, so that their difference is less than 1 from the sum of the parts.
    on_time_ms = on_time.completion_ms // on_time.orders
    group_ms = group.completion_ms // group.orders
    rounded = _rounded([ms for _, ms in parts], group_ms - on_time_ms)
    contributions = [Contribution(name, ms) for (name, _), ms in zip(parts, rounded, strict=True) if ms]
    return WhyLate(on_time_ms, contributions, group_ms, group.orders)


def explanation(found: WhyLate, group: str) -> str:
    """Return one or two sentences with the three largest contributions; `group` is "late" or "slow"."""
    more = found.group_ms - found.on_time_ms
    largest = sorted((each for each in found.contributions if each.ms > 0), key=lambda each: -each.ms)[:3]
    named = ", ".join(f"{each.name} {each.ms / 1000:+.3f} s" for each in largest)
    noun = f"The {found.orders:,} {group} orders" if found.orders > 1 else f"The {group} order"
    return (
        f"{noun} took {found.group_ms / 1000:.3f} s on average, {more / 1000:.3f} s more than on-time orders "
        f"({found.on_time_ms / 1000:.3f} s). Largest contributions: {named}."
    )


def waterfall(found: WhyLate, group: str, palette: Palette, limit_seconds: float) -> go.Figure:
    """Return a horizontal waterfall from the mean of the on-time orders to the mean of the group."""
    steps = found.contributions
    names = ["on-time orders", *(plain_text.chart(each.name) for each in steps), f"{group} orders"]
    values = [found.on_time_ms, *(each.ms for each in steps), found.group_ms]
    figure = go.Figure(
        go.Waterfall(
            orientation="h",
            measure=["absolute", *["relative"] * len(steps), "total"],
            # Positions, because two disturbances may have the same name.
            y=list(range(len(names))),
            x=[value / 1000 for value in values],
            text=[
                f"{value / 1000:.3f} s" if n in (0, len(values) - 1) else f"{value / 1000:+.3f} s"
                for n, value in enumerate(values)
            ],
            textposition="outside",
            customdata=names,
            hovertemplate="%{customdata}: %{text}<extra></extra>",
            increasing={"marker": {"color": palette.warning}},
            decreasing={"marker": {"color": palette.success}},
            totals={"marker": {"color": palette.info}},
            connector={"line": {"color": palette.muted, "width": 1}},
            cliponaxis=False,
        )
    )
    reached = [found.on_time_ms]
    for each in steps:
        reached.append(reached[-1] + each.ms)
    set_layout(
        figure,
        palette,
        height=90 + ROW_HEIGHT * len(names),
        axes={
            "xaxis": {
                "title": "mean completion time, s",
                # Room for the labels outside of the bars.
                "range": [0, 1.25 * max(*reached, limit_seconds * 1000) / 1000],
            },
            "yaxis": {
                "tickvals": list(range(len(names))),
                "ticktext": names,
                "range": [len(names) - 0.4, -0.6],
                "showgrid": False,
            },
        },
        marks=[limit_line(palette, limit_seconds, limit_seconds)],
    )
    return figure


def _rounded(exact: Sequence[Fraction], total: int) -> list[int]:
    """Round to whole numbers with this total: those with the largest remainders are rounded up.

    `total` is less than 1 from the sum of the exact values, so each result is at most 1 from its exact value.
    """
    whole = [math.floor(each) for each in exact]
    by_remainder = sorted(range(len(exact)), key=lambda n: whole[n] - exact[n])
    for n in by_remainder[: total - sum(whole)]:
        whole[n] += 1
    return whole
