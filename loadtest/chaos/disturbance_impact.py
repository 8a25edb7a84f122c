"""What each disturbance did to the orders: how many it made late, and how long until they were as before.

Pure functions over records. A level is the median completion time of ten orders in a row, by acceptance; the
former level is the highest one among the orders of the 30 s before the disturbance. It has risen when, in the
limit after it, a level is a tenth above that, and above what nineteen of twenty of the orders before took:
of times that only vary, about one level in ten thousand is. It is back when ten orders in a row are at
the former level again. An accepted order whose outcome nobody saw took for ever.
"""

import math
from collections.abc import Sequence
from statistics import median
from typing import Any

from loadtest.generator.recording import OrderRecord
from loadtest.verdict.percentiles import percentile

WINDOW = 10
BEFORE_SECONDS = 30.0
RISE = 1.1
USUAL_SHARE = 0.95

Json = dict[str, Any]


def of(disturbances: Sequence[Json], records: Sequence[OrderRecord], slo_seconds: float) -> list[Json]:
    """The disturbances, each with `made_late` orders, `former_level_ms` (None: too few orders before),
    `too_few_after` and `recovery_seconds` (0 when the level never rose; None when it was not back before the
    next disturbance or the end, or when there were too few orders to tell)."""
    told = []
    for number, disturbance in enumerate(disturbances):
        at = disturbance["at_seconds"]
        later = [each["at_seconds"] for each in disturbances[number + 1 :] if each["at_seconds"] > at]
        until = min(later, default=float("inf"))
        before = _before(records, at)
        former = former_level_ms(before)
        after = _after(records, at, until)
        recovery = None
        if former is not None:
            risen_ms = max(former * RISE, percentile(sorted(map(_took_ms, before)), USUAL_SHARE))
            recovery = recovery_seconds(after, at, former, risen_ms, slo_seconds)
        told.append(
            disturbance
            | {
                "made_late": _made_late(records, at, until, slo_seconds),
                "former_level_ms": former,
                "too_few_after": len(after) < WINDOW,
                "recovery_seconds": recovery,
            }
        )
    return told


def former_level_ms(before: Sequence[OrderRecord]) -> float | None:
    """The highest level of the orders before the disturbance; None when they are too few."""
    levels = _levels(before)
    return max(level for _, level in levels) if levels else None


def recovery_seconds(
    after: Sequence[OrderRecord], at: float, former_ms: float, risen_ms: float, slo_seconds: float
) -> float | None:
    """From the disturbance until the level is back: the acceptance of the first order of the ten. `after` are
    the orders that it may have touched, by acceptance; above `risen_ms` a level is no chance."""
    levels = _levels(after)
    if not levels:
        return None
    risen = False
    for accepted, level in levels:
        if not risen:
            if accepted > at + slo_seconds:
                break
            risen = level > risen_ms
        elif level <= former_ms:
            return round(max(accepted - at, 0.0), 3)
    return None if risen else 0.0


def _before(records: Sequence[OrderRecord], at: float) -> list[OrderRecord]:
    """The orders of the time before a disturbance that had finished by then."""
    return [
        record
        for record in _by_acceptance(records)
        if _accepted(record) >= at - BEFORE_SECONDS and _finished(record) < at
    ]


def _after(records: Sequence[OrderRecord], at: float, until: float) -> list[OrderRecord]:
    return [
        record for record in _by_acceptance(records) if _finished(record) >= at and _accepted(record) < until
    ]


def _made_late(records: Sequence[OrderRecord], at: float, until: float, slo_seconds: float) -> int:
    """Late orders whose time was up after this disturbance and before the next: each counts for one."""
    return sum(record.late and at <= _time_is_up(record, slo_seconds) < until for record in records)


def _time_is_up(record: OrderRecord, slo_seconds: float) -> float:
    """When it was clear that the order is late; one that was turned away is so at once."""
    if record.accepted is not None:
        return record.accepted + slo_seconds
    took = math.inf if record.end_to_end_ms is None else record.end_to_end_ms / 1000
    return record.due + min(took, slo_seconds)


def _by_acceptance(records: Sequence[OrderRecord]) -> list[OrderRecord]:
    return sorted((record for record in records if record.accepted is not None), key=_accepted)


def _accepted(record: OrderRecord) -> float:
    assert record.accepted is not None, "only accepted orders are asked"
    return record.accepted


def _finished(record: OrderRecord) -> float:
    return _accepted(record) + _took_ms(record) / 1000


def _took_ms(record: OrderRecord) -> float:
    return math.inf if record.completion_ms is None else record.completion_ms


def _levels(ordered: Sequence[OrderRecord]) -> list[tuple[float, float]]:
    """Acceptance of the first and median completion of each ten orders in a row."""
    times = [_took_ms(record) for record in ordered]
    return [(_accepted(ordered[i]), median(times[i : i + WINDOW])) for i in range(len(ordered) - WINDOW + 1)]
