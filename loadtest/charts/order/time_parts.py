"""How an order spent its time: its parts in ms, which sum to the total, and one sentence about them."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import NamedTuple

from db.database import Row
from db.domain import COMPENSATIONS, AttemptOutcome, ReviewMode, State, Step
from db.read_models.order_search import OrderDetails
from loadtest.charts.order.bars import WAITING, Bar, bars
from loadtest.charts.time_breakdown import SEGMENTS

COMPENSATE = "compensate"
_FORWARD = [segment for segment in SEGMENTS if segment not in (COMPENSATE, WAITING)]
SMALL_SHARE = 0.02
"""The sentence sums up parts below this share of the total."""

_STARTS = {
    State.COMPLETED: "Completed in",
    State.CANCELLED: "Cancelled after",
    State.FAILED: "Failed after",
}
_NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


class OrderTime(NamedTuple):
    """`parts_ms` has a value for each of SEGMENTS; they sum to `total_ms`."""

    total_ms: int
    parts_ms: dict[str, int]


def order_time(details: OrderDetails) -> OrderTime:
    """Return the stored time of a finished order, or the time of an open order so far."""
    order = details.order
    if order["completion_ms"] is not None:
        return OrderTime(order["completion_ms"], {part: order[f"{part}_ms"] for part in SEGMENTS})
    # Same as `finish_order` in db/queries/orders.sql: lost attempts count as waiting, and so do forward
    # attempts after an abort. Each part is rounded down, and waiting is the remainder.
    total_ms = _ms(order["accepted_at"], order["read_at"])
    aborted_ms = total_ms if order["aborted_at"] is None else _ms(order["accepted_at"], order["aborted_at"])
    busy = [bar for bar in bars(details) if bar.kind not in (WAITING, AttemptOutcome.LOST)]
    parts_ms = {
        step: _covered_ms((bar for bar in busy if bar.row == step), min(aborted_ms, total_ms))
        for step in _FORWARD
    }
    parts_ms[COMPENSATE] = _covered_ms((bar for bar in busy if bar.row in COMPENSATIONS), total_ms)
    parts_ms[WAITING] = total_ms - sum(parts_ms.values())
    return OrderTime(total_ms, parts_ms)


def explanation(details: OrderDetails) -> str:
    """Return one sentence about the time of an order, the largest part first, whose parts sum to the total.

    For example "Completed in 3.580 s: 2.000 s review, 0.950 s in five attempts of validate, 0.630 s waiting."
    A second sentence says by how much the order is late.
    """
    order, (total_ms, parts_ms) = details.order, order_time(details)
    ranked = sorted(((ms, part) for part, ms in parts_ms.items() if ms), reverse=True)
    small = [(ms, part) for ms, part in ranked if ms < SMALL_SHARE * total_ms]
    shown = [pair for pair in ranked if pair not in small] if len(small) > 1 else ranked
    texts = [f"{_seconds(ms)} {_part_text(part, details)}" for ms, part in shown]
    if len(small) > 1:
        names = ", ".join(part for _, part in small)
        texts.append(f"{_seconds(sum(ms for ms, _ in small))} in the rest ({names})")
    start = _STARTS.get(State(order["state"]), "Open for")
    sentence = f"{start} {_seconds(total_ms)}{': ' if texts else ''}{', '.join(texts)}."
    late_ms = total_ms - _ms(order["accepted_at"], order["limit_at"])
    return f"{sentence} Late by {_seconds(late_ms)}." if late_ms > 0 else sentence


def _part_text(part: str, details: OrderDetails) -> str:
    if part == WAITING:
        lost = sum(event["outcome"] == AttemptOutcome.LOST for event in _ended_attempts(details))
        return f"{part} ({_count(lost)} lost with the worker)" if lost else part
    if part == Step.REVIEW:
        return f"manual {part}" if details.order["review"] == ReviewMode.MANUAL else part
    attempts = _attempts(details)
    steps = [step for step in (COMPENSATIONS if part == COMPENSATE else (part,)) if step in attempts]
    if not steps:
        # Retention has deleted the events.
        return part
    running = ", still running" if any(each["step"] in steps for each in details.running_attempts) else ""
    return f"in {_count(sum(attempts[step] for step in steps))} of {' and '.join(steps)}{running}"


def _ended_attempts(details: OrderDetails) -> list[Row]:
    return [event for event in details.events if event["kind"] == "attempt"]


def _attempts(details: OrderDetails) -> dict[str, int]:
    """Return the number of attempts of each step. Not every attempt has an event, but the last one has."""
    last: dict[str, int] = {}
    for each in (*_ended_attempts(details), *details.running_attempts):
        last[each["step"]] = max(last.get(each["step"], 0), each["attempt"])
    return last


def _count(attempts: int) -> str:
    number = _NUMBERS[attempts] if attempts < len(_NUMBERS) else f"{attempts:,}"
    return f"{number} attempt{'' if attempts == 1 else 's'}"


def _covered_ms(spans: Iterable[Bar], until_ms: int) -> int:
    """Return the time that bars cover together before `until_ms`."""
    covered, reached = 0.0, 0.0
    for bar in sorted(spans, key=lambda each: each.start_seconds):
        end = min(bar.end_seconds, until_ms / 1000)
        covered += max(0.0, end - max(bar.start_seconds, reached))
        reached = max(reached, end)
    # A microsecond guards against floating-point error.
    return int(covered * 1000 + 0.001)


def _ms(start: datetime, end: datetime) -> int:
    return (end - start) // timedelta(milliseconds=1)


def _seconds(ms: int) -> str:
    return f"{ms / 1000:,.3f} s"
