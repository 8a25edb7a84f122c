"""Impact of each disturbance: late orders after it, and time until completion times had recovered.

The late orders after a disturbance need not be its effect. So the impact also has the number of late orders
expected without disturbances: the late shares before the first disturbance, times the numbers of orders after
this one. There are two late shares, because a rejected order is late at once and an accepted one when its
limit passes: of the accepted orders whose limit passed, and of all orders that were due.

A level is the median completion time of ten consecutive orders, by acceptance. The former level is the
highest level in the 30 s before the disturbance. The level has risen if, within one limit after the
disturbance, it exceeds the former level by a tenth and also the 95th percentile of the orders before; random
variation reaches that in about one of ten thousand levels. It has recovered when ten consecutive orders are
at the former level again. An accepted order without an outcome counts as infinitely long.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from db.read_models.percentiles import percentile
from loadtest.generator.recording import Ending, OrderRecord
from orchestrator.rest_client import Json

WINDOW = 10
BEFORE_SECONDS = 30.0
RISE = 1.1
USUAL_SHARE = 0.95


@dataclass(frozen=True)
class _AcceptedOrder:
    """`accepted` is in seconds after the start of the run."""

    accepted: float
    completion_ms: float

    @property
    def finished(self) -> float:
        return self.accepted + self.completion_ms / 1000


def impact_of(disturbances: Sequence[Json], records: Sequence[OrderRecord], slo_seconds: float) -> list[Json]:
    """Return the disturbances with their impact.

    `late_after`: number of late orders from the disturbance to the next one, or to the end, which is
    `seconds_after` later. `late_expected`: the number expected without disturbances; None if the limits of
    fewer than ten accepted orders passed before the first disturbance. `former_level_ms`: None if there were
    too few orders before. `too_few_after`: too few orders after it. `recovery_seconds`: 0 if the level never
    rose; None if it did not recover before the next disturbance or the end, or if there were too few orders.
    """
    orders = [
        _AcceptedOrder(each.accepted, math.inf if each.completion_ms is None else each.completion_ms)
        for each in records
        if each.accepted is not None
    ]
    orders.sort(key=lambda order: order.accepted)
    sent = [record for record in records if record.ending != Ending.REJECTED or record.late]
    counted = [(_limit_passed_at(record, slo_seconds), record.late) for record in sent]
    end = max((at for at, _ in counted), default=0.0)
    made_at = [each["at_seconds"] for each in disturbances if not each["problem"]]
    expected = _ExpectedLate(sent, min(made_at, default=math.inf), slo_seconds)
    impacts = []
    for disturbance in disturbances:
        at = disturbance["at_seconds"]
        until = min((each for each in made_at if each > at), default=math.inf)
        late = [is_late for passed_at, is_late in counted if at <= passed_at < until]
        before = [each for each in orders if each.accepted >= at - BEFORE_SECONDS and each.finished < at]
        after = [each for each in orders if each.finished >= at and each.accepted < until]
        former_ms = max((level for _, level in _levels(before)), default=None)
        recovery = None
        if former_ms is not None:
            usual_ms = percentile(sorted(each.completion_ms for each in before), USUAL_SHARE)
            recovery = _recovery_seconds(after, at, former_ms, max(former_ms * RISE, usual_ms), slo_seconds)
        impacts.append(
            disturbance
            | {
                "late_after": sum(late),
                "late_expected": expected.between(at, until),
                "seconds_after": round(max(min(until, end) - at, 0.0), 3),
                "former_level_ms": former_ms,
                "too_few_after": len(after) < WINDOW,
                "recovery_seconds": recovery,
            }
        )
    return impacts


class _ExpectedLate:
    """The number of late orders in a period, as before the first disturbance."""

    def __init__(self, sent: Sequence[OrderRecord], first_at: float, slo_seconds: float) -> None:
        # When an order was due, and whether it was late without being accepted.
        self._due = [(each.due, each.accepted is None and each.late) for each in sent]
        # When the limit of an accepted order passed, and whether it was late.
        self._passed = [
            (each.accepted + slo_seconds, each.late) for each in sent if each.accepted is not None
        ]
        self._first_at = first_at

    def between(self, at: float, until: float) -> float | None:
        if sum(passed_at < self._first_at for passed_at, _ in self._passed) < WINDOW:
            return None
        return round(sum(self._scaled(orders, at, until) for orders in (self._due, self._passed)), 3)

    def _scaled(self, orders: Sequence[tuple[float, bool]], at: float, until: float) -> float:
        before = [is_late for when, is_late in orders if when < self._first_at]
        return sum(before) / len(before) * sum(at <= when < until for when, _ in orders)


def _recovery_seconds(
    after: Sequence[_AcceptedOrder], at: float, former_ms: float, risen_ms: float, slo_seconds: float
) -> float | None:
    """Return the time from the disturbance to the acceptance of the first of the ten recovered orders.

    `after` are the orders that the disturbance may have affected. A level above `risen_ms` has risen.
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


def _limit_passed_at(record: OrderRecord, slo_seconds: float) -> float:
    """Return when the limit of the order passed; for a rejected order, the time of its rejection."""
    if record.accepted is not None:
        return record.accepted + slo_seconds
    duration = math.inf if record.end_to_end_ms is None else record.end_to_end_ms / 1000
    return record.due + min(duration, slo_seconds)


def _levels(orders: Sequence[_AcceptedOrder]) -> list[tuple[float, float]]:
    """Return the first acceptance and the median completion time of each ten consecutive orders."""
    times = [order.completion_ms for order in orders]
    return [(orders[i].accepted, median(times[i : i + WINDOW])) for i in range(len(orders) - WINDOW + 1)]
