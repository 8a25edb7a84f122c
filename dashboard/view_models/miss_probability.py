"""The probability that an order in flight misses its limit, estimated from finished orders.

docs/explanation/probability-of-missing-the-limit.md explains the estimate and how it is tested.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Self

import numpy as np
from numpy.typing import NDArray

from db.database import Row
from db.domain import ReviewMode, Step
from db.read_models.latency import FaultSpan
from db.transitions import STATE_MACHINE
from orchestrator.gateways.fault_injection import PROFILES

MIN_REFERENCE_ORDERS = 20
"""With fewer reference orders, the probability is unknown."""

PRIOR_ORDERS = 10.0
"""Weight of the more general estimate, in orders."""

WINDOW_MS = 250.0
"""Reference orders are compared at elapsed times that differ by at most this time. Measured with the recorded
load tests, both ways and for limits of 3, 4 and 5.5 s: with 1,000 ms or without a window the mean calibration
error was 0.04 and 0.07 for 3 s, with 150 to 250 ms 0.01. Weights of the prior from 5 to 40 orders differed by
less than 0.001 in the Brier score."""

COMPENSATION = "compensation"
STEPS = tuple(each.step for each in STATE_MACHINE.transitions)
_UNTIL_APPROVAL = STEPS[: STEPS.index(Step.REVIEW) + 1]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Stays:
    """The stays of finished orders in one step, in ms since acceptance: one element for each order."""

    entered_ms: Floats
    left_ms: Floats
    completion_ms: Floats

    @classmethod
    def of(cls, entered_ms: Floats, left_ms: Floats, completion_ms: Floats) -> Self:
        """Leave out orders that were not in the step (NaN), or for less than 1 ms."""
        stayed = left_ms > entered_ms
        return cls(entered_ms[stayed], left_ms[stayed], completion_ms[stayed])

    def late_share(
        self, time_left_ms: float, since_ms: float = 0.0, until_ms: float = np.inf
    ) -> tuple[float, int]:
        """Return the probability that an order in this step needs more than `time_left_ms`, and from how
        many orders.

        It is the share of the time that the orders spent in the step, between two elapsed times, at which
        their remaining time was longer. So a long stay has more weight: an order is more likely to be seen
        in it.
        """
        entered = np.maximum(self.entered_ms, since_ms)
        stay = np.minimum(self.left_ms, until_ms) - entered
        present = stay > 0
        if not present.any():
            return 0.0, 0
        entered, stay = entered[present], stay[present]
        late = np.clip(self.completion_ms[present] - time_left_ms - entered, 0.0, stay)
        return float(late.sum() / stay.sum()), len(stay)


@dataclass(frozen=True)
class MissProbability:
    """The stays of the reference orders, by review mode (None: all orders) and step (None: the whole
    order)."""

    stays: dict[tuple[str | None, str | None], Stays]

    @classmethod
    def of(cls, reference: Sequence[Row]) -> Self:
        """`reference` are rows of `db.read_models.step_times.newest`. Orders without events are left out."""
        stays: dict[tuple[str | None, str | None], Stays] = {}
        for review in (None, *ReviewMode):
            rows = [row for row in reference if _has_events(row) and review in (None, row["review"])]
            stays |= {(review, step): found for step, found in _stays(rows).items()}
        return cls(stays)

    def of_order(self, order: Row) -> float | None:
        """Return the probability, None if it is unknown.

        `order` is a row of `db.read_models.live_orders.orders_by_deadline`.
        """
        elapsed, time_left = order["elapsed_ms"], order["limit_ms"] - order["elapsed_ms"]
        if time_left <= 0:
            return 1.0
        step = COMPENSATION if order["abort_reason"] else order["current_step"]
        # After the approval, the review mode makes no difference.
        review = order["review"] if step in _UNTIL_APPROVAL else None
        share, orders = self.stays[review, None].late_share(time_left)
        if orders < MIN_REFERENCE_ORDERS:
            return None
        probability = (share * orders + 0.5) / (orders + 1)
        in_step = self.stays[review, step]
        for share, orders in (
            in_step.late_share(time_left),
            in_step.late_share(time_left, elapsed - WINDOW_MS, elapsed + WINDOW_MS),
        ):
            probability = (share * orders + PRIOR_ORDERS * probability) / (orders + PRIOR_ORDERS)
        return probability


def reference_orders(rows: Iterable[Row], active: FaultSpan | None, before: datetime) -> list[Row]:
    """Return the orders of `db.read_models.step_times.newest` that had the active profile and were accepted
    before a time.

    Rates of a custom profile differ although its name is the same, so its orders count since it was set.
    """
    profile = active.profile if active else "none"
    since = active.since if active and profile not in PROFILES else None
    return [
        row
        for row in rows
        if row["fault_profile"] == profile
        and row["accepted_at"] < before
        and (since is None or row["accepted_at"] >= since)
    ]


def _has_events(row: Row) -> bool:
    return row["dispatch_end_ms"] is not None or row["aborted_ms"] is not None


def _stays(rows: Sequence[Row]) -> dict[str | None, Stays]:
    def column(name: str) -> Floats:
        return np.array([row[name] for row in rows], dtype=float)

    completion, aborted = column("completion_ms"), column("aborted_ms")
    entered = np.zeros(len(rows))
    found: dict[str | None, Stays] = {None: Stays.of(entered, completion, completion)}
    for step in STEPS:
        end = completion if step is Step.FINISH else column(f"{step}_end_ms")
        # An abort ends the current step. In an aborted order, the finish is part of the compensation.
        left = np.where(np.isnan(aborted), end, np.fmin(end, aborted))
        found[step] = Stays.of(entered, left, completion)
        entered = end
    found[COMPENSATION] = Stays.of(aborted, completion, completion)
    return found
