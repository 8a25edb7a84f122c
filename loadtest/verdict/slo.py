"""SLO result of a run: is the share of late orders proven to be small enough?

Late orders are counted exactly, never estimated from a percentile.
"""

import math
from bisect import bisect_left
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction

CONFIDENCE = 0.95
PRECISION = 1e-13
MAX_STEPS = 100


class SloVerdict(StrEnum):
    MET = "met"
    BREACHED = "breached"
    NOT_PROVEN = "not proven"


@dataclass(frozen=True)
class SloResult:
    """`late_bound` is the exact one-sided upper bound of P(late) at CONFIDENCE.

    `more_needed` is the number of further orders, all of them on time, that would prove the target.
    """

    verdict: SloVerdict
    orders: int
    late: int
    target: float
    late_bound: float
    more_needed: int


def evaluate_slo(orders: int, late: int, target: float, planned: int = 0) -> SloResult:
    """Compare `late` of `orders` with the share `target` (0 to 1) of orders that must be on time.

    Breached when the measured share misses the target, met when the upper bound proves it, else not proven.
    `planned` is the number of orders of a run that was stopped early: it is breached only if the complete run
    would have been, with all further orders on time. Raises ValueError for impossible counts or targets.
    """
    if not 0 <= late <= orders or not 0 < target < 1:
        raise ValueError(f"cannot evaluate {late} late of {orders} orders against the target {target}")
    allowed = allowed_share(target)
    bound = upper_bound(late, orders)
    if late > allowed * max(orders, planned):
        verdict = SloVerdict.BREACHED
    elif bound <= allowed:
        verdict = SloVerdict.MET
    else:
        verdict = SloVerdict.NOT_PROVEN
    more = orders_needed(late, target) - orders if verdict is SloVerdict.NOT_PROVEN else 0
    return SloResult(verdict, orders, late, target, bound, max(more, 0))


def allowed_share(target: float) -> Fraction:
    """Return the share of orders that may be late, exactly: as floats, 1 - 0.9 is less than 1/10."""
    return 1 - Fraction(str(target))


def orders_needed(late: int, target: float) -> int:
    """Return the smallest number of orders that proves the target when `late` of them are late."""
    allowed = allowed_share(target)
    high = late + 2
    while upper_bound(late, high) > allowed:
        high *= 2
    return bisect_left(
        range(high), True, lo=late + 1, key=lambda orders: upper_bound(late, orders) <= allowed
    )


def upper_bound(late: int, orders: int, confidence: float = CONFIDENCE) -> float:
    """Return the exact (Clopper-Pearson) upper bound of P(late), from `late` of `orders`.

    This is the p for which P(X <= late) is 1 - `confidence`. Source: C. J. Clopper and E. S. Pearson,
    Biometrika 26 (1934) 404-413.
    """
    if orders == 0 or late >= orders:
        return 1.0
    wanted = math.log(1 - confidence)
    low, high = late / orders, 1.0
    p = (late + 1) / (orders + 1)
    for _ in range(MAX_STEPS):
        log_probability, slope = _log_binomial_cdf(late, orders, p)
        if log_probability > wanted:
            low = p
        else:
            high = p
        # Newton's step, or bisection when that step leaves the interval.
        step = p - (log_probability - wanted) / slope
        p, before = (step if low < step < high else (low + high) / 2), p
        if abs(p - before) <= PRECISION * p:
            break
    return p


def _log_binomial_cdf(k: int, n: int, p: float) -> tuple[float, float]:
    """Return log P(X <= k) of a binomial(n, p) and its derivative by p, for k < n and k / n <= p < 1.

    Logarithms avoid underflow for large n. The terms shrink from k downwards, so the sum ends after about
    sqrt(n) of them.
    """
    first = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
    first += k * math.log(p) + (n - k) * math.log1p(-p)
    odds = (1 - p) / p
    total = term = 1.0
    for i in range(k, 0, -1):
        term *= i / (n - i + 1) * odds
        total += term
        if term < total * 1e-18:
            break
    return first + math.log(total), -(n - k) / (1 - p) / total
