"""One order's time: a bar for each attempt, the waits between them, signals, and the limit."""

from dataclasses import dataclass
from datetime import datetime

import plotly.graph_objects as go

from dashboard import plain_text
from dashboard.charts.palette import Palette, framed, hold_still, limit_line
from db.database import Row
from db.domain import AttemptOutcome, State, Step
from db.read_models.order_search import OrderDetails

LANE_HEIGHT = 34
WAITING = "waiting"
SIGNALS = "requests"
UNDER_WAY = "under way"
REVIEW = "review"

_LANES = (*(step.value for step in Step if step is not Step.FINISH), WAITING, SIGNALS)
_PATTERNS = {"error": "x", "timeout": "/", "declined": ".", "lost": "-", UNDER_WAY: "|"}


@dataclass(frozen=True)
class Bar:
    """`lane` is a step or WAITING; `kind` an attempt's outcome, UNDER_WAY, REVIEW or WAITING. Seconds count
    from acceptance."""

    lane: str
    kind: str
    start_seconds: float
    end_seconds: float
    attempt: int | None = None
    worker: str | None = None
    error: str = ""


@dataclass(frozen=True)
class Mark:
    """Something that was asked of the order, or decided about it."""

    at_seconds: float
    name: str
    is_accepted: bool
    detail: str


def bars(file: OrderDetails) -> list[Bar]:
    """Every attempt, the review, and the waits: the times in which nothing of both was going on."""
    order = file.order
    accepted_at = order["accepted_at"]

    def seconds(moment: datetime) -> float:
        return float((moment - accepted_at).total_seconds())

    found = [
        Bar(
            event["step"],
            event["outcome"],
            seconds(event["started_at"]),
            seconds(event["started_at"]) + (event["duration_ms"] or 0.0) / 1000,
            event["attempt"],
            event["worker"],
            str((event["detail"] or {}).get("error", "")),
        )
        for event in file.events
        if event["kind"] == "attempt" and event["started_at"] is not None
    ]
    end = seconds(order["finished_at"] or order["read_at"])
    found += [
        Bar(each["step"], UNDER_WAY, seconds(each["started_at"]), end, each["attempt"], each["worker"])
        for each in file.under_way
    ]
    found += _review(file, seconds(order["aborted_at"]) if order["aborted_at"] else end, accepted_at)
    return [*found, *_waits(found, end)]


def _review(file: OrderDetails, otherwise: float, accepted_at: datetime) -> list[Bar]:
    into = next((e for e in file.events if e["kind"] == "state" and e["state"] == State.IN_REVIEW), None)
    if into is None:
        return []
    approved = next((e for e in file.events if e["state"] == State.APPROVED), None)
    start = (into["at"] - accepted_at).total_seconds()
    end = (approved["at"] - accepted_at).total_seconds() if approved else otherwise
    return [Bar(Step.REVIEW, REVIEW, start, max(start, end))]


def _waits(busy: list[Bar], end: float) -> list[Bar]:
    waits, reached = [], 0.0
    for bar in sorted(busy, key=lambda each: each.start_seconds):
        if bar.start_seconds > reached:
            waits.append(Bar(WAITING, WAITING, reached, min(bar.start_seconds, end)))
        reached = max(reached, bar.end_seconds)
    if end > reached:
        waits.append(Bar(WAITING, WAITING, reached, end))
    return waits


def marks(file: OrderDetails) -> list[Mark]:
    """The requests that reached the order, and the system's own decision to turn it back."""
    accepted_at = file.order["accepted_at"]
    return [
        Mark(
            (event["at"] - accepted_at).total_seconds(),
            _name(event),
            bool((event["detail"] or {}).get("accepted", event["kind"] == "abort")),
            ", ".join(f"{key}: {value}" for key, value in (event["detail"] or {}).items() if key != "signal"),
        )
        for event in file.events
        if event["kind"] in ("signal", "abort")
    ]


def _name(event: Row) -> str:
    detail = event["detail"] or {}
    return str(detail.get("signal") or detail.get("reason") or event["kind"]).replace("_", " ")


def timeline(file: OrderDetails, palette: Palette) -> go.Figure:
    """The figure. Colours say how an attempt ended, and so does the pattern."""
    drawn, requests = bars(file), marks(file)
    present = {bar.lane for bar in drawn} | ({SIGNALS} if requests else set())
    lanes = [lane for lane in _LANES if lane in present]
    figure = go.Figure()
    for kind in dict.fromkeys(bar.kind for bar in drawn):
        own = [bar for bar in drawn if bar.kind == kind]
        colour = _colour(kind, palette)
        figure.add_bar(
            x=[bar.end_seconds - bar.start_seconds for bar in own],
            base=[bar.start_seconds for bar in own],
            y=[bar.lane for bar in own],
            orientation="h",
            name=kind,
            width=0.62,
            # The line keeps an attempt of half a millisecond visible.
            marker={"color": colour, "line": {"color": colour, "width": 1.5}},
            marker_pattern_shape=_PATTERNS.get(kind, ""),
            customdata=[_hover(bar) for bar in own],
            hovertemplate="%{customdata}<extra></extra>",
        )
    if requests:
        figure.add_scatter(
            x=[mark.at_seconds for mark in requests],
            y=[SIGNALS] * len(requests),
            mode="markers+text",
            name="request",
            text=[f"{mark.name}{'' if mark.is_accepted else ', too late'}" for mark in requests],
            textposition="middle right",
            marker={
                "symbol": ["diamond" if mark.is_accepted else "x" for mark in requests],
                "size": 12,
                "color": [palette.accent if mark.is_accepted else palette.bad for mark in requests],
            },
            customdata=[plain_text.chart(f"{mark.at_seconds:.3f} s, {mark.detail}") for mark in requests],
            hovertemplate="%{customdata}<extra></extra>",
        )
    order = file.order
    limit = (order["deadline_at"] - order["accepted_at"]).total_seconds()
    framed(figure, palette, height=110 + LANE_HEIGHT * max(len(lanes), 3))
    furthest = max([limit, *(bar.end_seconds for bar in drawn)])
    figure.update_xaxes(title="seconds since acceptance", range=[-0.1, furthest * 1.06])
    figure.update_yaxes(categoryorder="array", categoryarray=lanes[::-1], range=[-0.6, len(lanes) - 0.4])
    figure.update_layout(barmode="overlay")
    limit_line(figure, palette, limit, limit)
    if order["finished_at"] is None:
        hold_still(figure)
    return figure


def _colour(kind: str, palette: Palette) -> str:
    if kind in (REVIEW, WAITING, UNDER_WAY):
        return {REVIEW: palette.accent, WAITING: palette.muted, UNDER_WAY: palette.calm}[kind]
    return palette.of_attempt(AttemptOutcome(kind))


def _hover(bar: Bar) -> str:
    words = [f"{bar.lane}, {bar.kind}" if bar.lane != bar.kind else bar.lane]
    if bar.attempt is not None:
        words[0] = f"{bar.lane}, attempt {bar.attempt}: {bar.kind}"
    words.append(f"{bar.start_seconds:.3f} s to {bar.end_seconds:.3f} s")
    words.append(f"{(bar.end_seconds - bar.start_seconds) * 1000:,.1f} ms")
    words += [plain_text.chart(text) for text in (bar.error, bar.worker or "") if text]
    return "<br>".join(words)
