"""Generated runs for tests of `report.html` and of the playback."""

from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

from db.domain import State, Step
from db.read_models.latency import Disturbance, FaultSpan
from db.read_models.order_search import OrderDetails
from db.read_models.playback import PlayedOrder, PlayedOrders, phases
from db.read_models.time_groups import TimeGroup, TimeGroups
from loadtest.charts.time_breakdown import SEGMENTS
from loadtest.options import RunOptions
from loadtest.playback.run_playback import RunPlayback
from loadtest.reports.html_report import ReportInput
from loadtest.reports.run_details import RunDetails
from tests.load.records import AUDIT, record, verdict_of

START = datetime(2026, 1, 1, tzinfo=UTC)
LIMIT_SECONDS = 15.0
STEPS = (Step.RECEIVE, Step.VALIDATE, Step.REVIEW, Step.CHARGE, Step.PREPARE, Step.DISPATCH)
KILLS = (20.0, 40.0)


def played_orders(count: int, rate: float = 10) -> list[PlayedOrder]:
    """Return orders with 2 s of review; a tenth is cancelled, and some are late after a kill."""
    random = Random(1)
    orders = []
    for number in range(count):
        accepted_ms = round(number / rate * 1000)
        is_disturbed = any(kill <= accepted_ms / 1000 < kill + 5 for kill in KILLS)
        ended_ms, now = {}, 0
        for step in STEPS:
            mean_ms = 2_000 if is_disturbed else 600
            now += 2_000 if step is Step.REVIEW else 5 + round(random.expovariate(1 / mean_ms))
            ended_ms[step.value] = now
        end_ms, outcome, aborted_ms = now + 20, State.COMPLETED, None
        if number % 10 == 3:
            aborted_ms = random.randrange(100, 3_000)
            end_ms, outcome = aborted_ms + 400, State.CANCELLED
        known = {step: ms for step, ms in ended_ms.items() if ms < end_ms}
        orders.append(
            PlayedOrder(
                f"run-{number}", accepted_ms, end_ms, outcome, end_ms > LIMIT_SECONDS * 1000,
                phases(known, aborted_ms),
            )
        )  # fmt: skip
    return orders


def run_playback(count: int, rate: float = 10) -> RunPlayback:
    kills = [Disturbance("run", START + timedelta(seconds=at), "kill", "order-worker-1") for at in KILLS]
    faults = [FaultSpan("assignment", 1, START, START + timedelta(seconds=count / rate))]
    orders = PlayedOrders(played_orders(count, rate), count)
    return RunPlayback(START, LIMIT_SECONDS, orders, kills, faults)


def report_input(count: int = 200, rate: float = 10, error: str = "simulated", **changed: Any) -> ReportInput:
    """Return a finished run. `error` is the text of failed attempts, `changed` are parts of the verdict."""
    playback = run_playback(count, rate)
    records = [
        record(
            number,
            order.accepted_ms / 1000 - 0.01,
            completion_ms=float(order.end_ms or 0),
            outcome=order.outcome,
            late=order.is_late,
        )
        for number, order in enumerate(playback.orders.shown)
    ]
    disturbances = [
        {
            "at_seconds": at, "verb": "kill", "target": "order-worker-1", "problem": None, "late_after": 1,
            "late_expected": 0.0, "seconds_after": 15.0, "former_level_ms": 3_000.0, "too_few_after": False,
            "recovery_seconds": 4.2,
        }
        for at in KILLS
    ]  # fmt: skip
    verdict = verdict_of(
        records,
        options=RunOptions.parse({"run_id": "run", "rate": f"{rate}", "duration": f"{count / rate}s"}),
        started_at=START,
        ended_at=START + timedelta(seconds=count / rate + 15),
        audit=AUDIT | {"finished": count, "workflows_checked": count},
        disturbances=disturbances,
        context={"faults": {"profile": "assignment", "seed": 1}, "commit": "abc", "machine": {"cpus": 2}},
    )
    slowest = sorted(playback.orders.shown, key=lambda order: -(order.end_ms or 0))[:10]
    details = RunDetails(
        playback.orders,
        [_breakdown(order) for order in slowest],
        [_details(order, error) for order in slowest],
        list(playback.faults),
        list(playback.disturbances),
        _groups(slowest, playback.orders.shown),
        {0: "kill order-worker-1 at +20 s"},
    )
    return ReportInput(verdict.report | changed, records, details)


def _groups(slowest: list[PlayedOrder], every: list[PlayedOrder]) -> TimeGroups:
    late = [order for order in every if order.is_late]
    on_time = [order for order in every if order not in slowest and not order.is_late]
    return TimeGroups(_group(on_time), late=_group(late) if late else None)


def _group(orders: list[PlayedOrder]) -> TimeGroup:
    rows = [_breakdown(order) for order in orders]
    parts = {segment: sum(row[f"{segment}_ms"] for row in rows) for segment in SEGMENTS}
    return TimeGroup(len(orders), sum(parts.values()), parts)


def _spans(order: PlayedOrder) -> list[tuple[str, int, int]]:
    ends = [start for _, start in order.phases[1:]] + [order.end_ms or 0]
    return [(phase, start, end) for (phase, start), end in zip(order.phases, ends, strict=True)]


def _breakdown(order: PlayedOrder) -> dict[str, Any]:
    times = {f"{phase}_ms": end - start for phase, start, end in _spans(order)}
    return {
        "order_id": order.order_id, "outcome": order.outcome, "completion_ms": order.end_ms,
        "attempts": 48, "failed_attempts": 42,
        **{f"{segment}_ms": 0 for segment in SEGMENTS}, **times,
    }  # fmt: skip


def _details(order: PlayedOrder, error: str) -> OrderDetails:
    """Return the order with eight attempts of each step."""
    accepted_at = START + timedelta(milliseconds=order.accepted_ms)

    def event(kind: str, at_ms: float, **known: Any) -> dict[str, Any]:
        empty = dict.fromkeys(("step", "attempt", "outcome", "started_at", "duration_ms", "worker", "detail"))
        return (
            {"kind": kind, "at": accepted_at + timedelta(milliseconds=at_ms), "state": "received"}
            | empty
            | known
        )

    events = [event("accepted", 0)]
    for phase, start, end in _spans(order):
        width = (end - start) / 8
        events += [
            event(
                "attempt",
                start + (n + 1) * width,
                step=phase,
                attempt=n + 1,
                outcome="ok" if n == 7 else ("error", "timeout")[n % 2],
                started_at=accepted_at + timedelta(milliseconds=start + n * width),
                duration_ms=width,
                worker="order-worker-1",
                detail={"error": error} if n < 7 else None,
            )
            for n in range(8)
            if phase in STEPS
        ]
    finished_at = accepted_at + timedelta(milliseconds=order.end_ms or 0)
    row = {
        "order_id": order.order_id, "state": order.outcome, "completion_ms": order.end_ms,
        "accepted_at": accepted_at, "finished_at": finished_at, "read_at": finished_at, "aborted_at": None,
        "limit_at": accepted_at + timedelta(seconds=LIMIT_SECONDS),
    }  # fmt: skip
    return OrderDetails(row, events, [])
