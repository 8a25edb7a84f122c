"""Impact of each disturbance: orders that became late, and time until completion times had recovered.

A level is the median completion time of ten consecutive orders, by acceptance. The former level is the
highest level in the 30 s before the disturbance. The level has risen if, within one limit after the
disturbance, it exceeds the former level by a tenth and also the 95th percentile of the orders before; random
variation reaches that in about one of ten thousand levels. It has recovered when ten consecutive orders are
at the former level again. An accepted order without an outcome counts as infinitely long.
"""

import math
from collections.abc import Sequence
from statistics import median

from loadtest.generator.recording import OrderRecord
from loadtest.verdict.percentiles import percentile
from orchestrator.rest_client import Json

WINDOW = 10
BEFORE_SECONDS = 30.0
RISE = 1.1
USUAL_SHARE = 0.95


def impact_of(disturbances: Sequence[Json], records: Sequence[OrderRecord], slo_seconds: float) -> list[Json]:
    """Return the disturbances with their impact.

    `made_late`: number of late orders. `former_level_ms`: None if there were too few orders before.
    `too_few_after`: too few orders after it. `recovery_seconds`: 0 if the level never rose; None if it did
    not recover before the next disturbance or the end, or if there were too few orders.
    """
    impacts = []
    for number, disturbance in enumerate(disturbances):
        at = disturbance["at_seconds"]
        later = [each["at_seconds"] for each in disturbances[number + 1 :] if each["at_seconds"] > at]
        until = min(later, default=math.inf)
        before = _finished_before(records, at)
        former = former_level_ms(before)
        after = _affected(records, at, until)
        recovery = None
        if former is not None:
            risen_ms = max(former * RISE, percentile(sorted(map(_duration_ms, before)), USUAL_SHARE))
            recovery = recovery_seconds(after, at, former, risen_ms, slo_seconds)
        impacts.append(
            disturbance
            | {
                "made_late": _made_late(records, at, until, slo_seconds),
                "former_level_ms": former,
                "too_few_after": len(after) < WINDOW,
                "recovery_seconds": recovery,
            }
        )
    return impacts


def former_level_ms(before: Sequence[OrderRecord]) -> float | None:
    """Return the highest level of the orders before the disturbance; None if there are too few."""
    levels = _levels(before)
    return max(level for _, level in levels) if levels else None


def recovery_seconds(
    after: Sequence[OrderRecord], at: float, former_ms: float, risen_ms: float, slo_seconds: float
) -> float | None:
    """Return the time from the disturbance to the acceptance of the first of the ten recovered orders.

    `after` are the orders that it may have affected, by acceptance. A level above `risen_ms` has risen.
    """
    levels = _levels(after)
    if not levels:
        return None
    has_risen = False
    for accepted, level in levels:
        if not has_risen:
            if accepted > at + slo_seconds:
                break
            has_risen = level > risen_ms
        elif level <= former_ms:
            return round(max(accepted - at, 0.0), 3)
    return None if has_risen else 0.0


def _finished_before(records: Sequence[OrderRecord], at: float) -> list[OrderRecord]:
    return [
        record
        for record in _by_acceptance(records)
        if _accepted(record) >= at - BEFORE_SECONDS and _finished(record) < at
    ]


def _affected(records: Sequence[OrderRecord], at: float, until: float) -> list[OrderRecord]:
    return [
        record for record in _by_acceptance(records) if _finished(record) >= at and _accepted(record) < until
    ]


def _made_late(records: Sequence[OrderRecord], at: float, until: float, slo_seconds: float) -> int:
    """Count late orders whose limit passed after this disturbance and before the next one."""
    return sum(record.late and at <= _limit_at(record, slo_seconds) < until for record in records)


def _limit_at(record: OrderRecord, slo_seconds: float) -> float:
    """Return when the order was known to be late; for a rejected order, the time of its rejection."""
    if record.accepted is not None:
        return record.accepted + slo_seconds
    duration = math.inf if record.end_to_end_ms is None else record.end_to_end_ms / 1000
    return record.due + min(duration, slo_seconds)


def _by_acceptance(records: Sequence[OrderRecord]) -> list[OrderRecord]:
    return sorted((record for record in records if record.accepted is not None), key=_accepted)


def _accepted(record: OrderRecord) -> float:
    assert record.accepted is not None, "callers pass accepted orders"
    return record.accepted


def _finished(record: OrderRecord) -> float:
    return _accepted(record) + _duration_ms(record) / 1000


def _duration_ms(record: OrderRecord) -> float:
    return math.inf if record.completion_ms is None else record.completion_ms


def _levels(ordered: Sequence[OrderRecord]) -> list[tuple[float, float]]:
    """Return the first acceptance and the median completion time of each ten consecutive orders."""
    times = [_duration_ms(record) for record in ordered]
    return [(_accepted(ordered[i]), median(times[i : i + WINDOW])) for i in range(len(ordered) - WINDOW + 1)]
