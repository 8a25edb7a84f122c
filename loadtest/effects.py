"""What each disturbance did to the orders: how many it made late, and how long until they were as before.

Pure functions over records. A level is the median completion time of ten orders in a row, by acceptance; the
former level is the highest one among the orders of the 30 s before the disturbance. It is back when, after
having been above that, ten orders in a row are at it again. An accepted order whose outcome nobody saw took
for ever.
"""

import math
from collections.abc import Sequence
from statistics import median
from typing import Any

from loadtest.recording import OrderRecord

WINDOW = 10
BEFORE_SECONDS = 30.0

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
        former = former_level_ms(records, at)
        after = _after(records, at, until)
        told.append(
            disturbance
            | {
                "made_late": _made_late(records, at, until, slo_seconds),
                "former_level_ms": former,
                "too_few_after": len(after) < WINDOW,
                "recovery_seconds": None if former is None else recovery_seconds(after, at, former),
            }
        )
    return told


def former_level_ms(records: Sequence[OrderRecord], at: float) -> float | None:
    """The highest level before the disturbance, from orders that had finished by then."""
    before = [
        record
        for record in _by_acceptance(records)
        if _accepted(record) >= at - BEFORE_SECONDS and _finished(record) < at
    ]
    levels = _levels(before)
    return max(level for _, level in levels) if levels else None


def recovery_seconds(after: Sequence[OrderRecord], at: float, former_ms: float) -> float | None:
    """From the disturbance until the level is back: the acceptance of the first order of the ten. `after` are
    the orders that it may have touched, by acceptance."""
    levels = _levels(after)
    if not levels:
        return None
    risen = False
    for accepted, level in levels:
        if level > former_ms:
            risen = True
        elif risen:
            return round(max(accepted - at, 0.0), 3)
    return None if risen else 0.0


def _after(records: Sequence[OrderRecord], at: float, until: float) -> list[OrderRecord]:
    return [
        record for record in _by_acceptance(records) if _finished(record) >= at and _accepted(record) < until
    ]


def _made_late(records: Sequence[OrderRecord], at: float, until: float, slo_seconds: float) -> int:
    """Late orders whose time was up after this disturbance and before the next: each counts for one."""
    return sum(record.late and at <= _begins(record) + slo_seconds < until for record in records)


def _begins(record: OrderRecord) -> float:
    return record.due if record.accepted is None else record.accepted


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
