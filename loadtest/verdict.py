"""Whether the limit was kept, with the certainty that the number of orders allows.

Late orders are counted, never estimated from a percentile.
"""

import math
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction

CONFIDENCE = 0.95


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
    low, high = late / orders, 1.0
    for _ in range(100):
        middle = (low + high) / 2
        if _at_most(late, orders, middle) > 1 - confidence:
            low = middle
        else:
            high = middle
    return high


def _at_most(k: int, n: int, p: float) -> float:
    """P(X <= k) of a binomial(n, p) for p >= k / n, summed in logarithms so that large n do not underflow.

    From k down, where the terms only shrink: so the sum is done once they are too small to count, after
    about sqrt(n) of them.
    """
    if p <= 0:
        return 1.0
    if p >= 1:
        return 1.0 if k >= n else 0.0
    total = 0.0
    for i in range(k, -1, -1):
        log_term = (
            math.lgamma(n + 1)
            - math.lgamma(i + 1)
            - math.lgamma(n - i + 1)
            + i * math.log(p)
            + (n - i) * math.log1p(-p)
        )
        term = math.exp(log_term)
        total += term
        if term < total * 1e-18:
            break
    return min(total, 1.0)


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
