"""Whether the limit was kept, with the certainty that the number of orders allows.

Late orders are counted, never estimated from a percentile.
"""

import math
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction

CONFIDENCE = 0.95
PRECISION = 1e-13
MAX_STEPS = 100


class LimitVerdict(StrEnum):
    MET = "met"
    BREACHED = "breached"
    NOT_PROVEN = "not proven"


@dataclass(frozen=True)
class LimitJudgement:
    """`late_bound` is the exact one-sided upper bound of P(late) at CONFIDENCE.

    `more_needed` is how many more orders, none of them late, would prove the target.
    """

    verdict: LimitVerdict
    orders: int
    late: int
    target: float
    late_bound: float
    more_needed: int


def judge(orders: int, late: int, target: float) -> LimitJudgement:
    """Judges `late` of `orders` against the share `target` (0 to 1) that must be on time.

    Breached when the share itself is missed; met when the bound proves it; not proven in between.
    Raises ValueError for counts or targets that make no sense.
    """
    if not 0 <= late <= orders or not 0 < target < 1:
        raise ValueError(f"cannot judge {late} late of {orders} against {target}")
    allowed = allowed_share(target)
    bound = upper_bound(late, orders)
    if orders and Fraction(late, orders) > allowed:
        verdict = LimitVerdict.BREACHED
    elif bound <= allowed:
        verdict = LimitVerdict.MET
    else:
        verdict = LimitVerdict.NOT_PROVEN
    more = 0 if verdict is not LimitVerdict.NOT_PROVEN else _orders_needed(late, allowed) - orders
    return LimitJudgement(verdict, orders, late, target, bound, max(more, 0))


def allowed_share(target: float) -> Fraction:
    """The share that may be late, exactly as the target is written: 1 - 0.9 as floats is less than 1/10."""
    return 1 - Fraction(str(target))


def upper_bound(late: int, orders: int, confidence: float = CONFIDENCE) -> float:
    """The exact (Clopper-Pearson) upper bound of a probability, from `late` of `orders`.

    It is the p for which seeing at most `late` has probability 1 - `confidence`. Source: C. J. Clopper
    and E. S. Pearson, Biometrika 26 (1934) 404-413.
    """
    if orders == 0 or late >= orders:
        return 1.0
    wanted = math.log(1 - confidence)
    low, high = late / orders, 1.0
    p = (late + 1) / (orders + 1)
    for _ in range(MAX_STEPS):
        log_share, slope = _at_most(late, orders, p)
        if log_share > wanted:
            low = p
        else:
            high = p
        # Newton's step; the middle instead when it leads out of what is known.
        step = p - (log_share - wanted) / slope
        p, before = (step if low < step < high else (low + high) / 2), p
        if abs(p - before) <= PRECISION * p:
            break
    return p


def _at_most(k: int, n: int, p: float) -> tuple[float, float]:
    """The logarithm of P(X <= k) of a binomial(n, p), and its derivative by p, for k < n and k / n <= p < 1.

    In logarithms, so that large n do not underflow. Summed from k down, where the terms only shrink, as
    parts of the first: so the sum is done once they are too small to count, after about sqrt(n) of them.
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


def _orders_needed(late: int, allowed: Fraction) -> int:
    low, high = late + 1, late + 2
    while upper_bound(late, high) > allowed:
        low, high = high, high * 2
    while low < high:
        middle = (low + high) // 2
        if upper_bound(late, middle) <= allowed:
            high = middle
        else:
            low = middle + 1
    return high
