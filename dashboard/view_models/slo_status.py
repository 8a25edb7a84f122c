"""The SLO result of recent orders: one verdict and one sentence."""

from typing import NamedTuple

from loadtest.verdict.slo import SloResult, SloVerdict, evaluate_slo

SLO_TARGET = 0.99
"""The target of orders outside a load test."""


class SloStatus(NamedTuple):
    """The verdict (None without orders), a sentence, and sentences with more numbers.

    `detail` is never empty, so that a banner keeps its height when the first order finishes."""

    verdict: SloVerdict | None
    headline: str
    detail: str


def slo_status(orders: int, late: int, target: float) -> SloStatus:
    """Evaluate the SLO of finished and overdue `orders`, of which `late` are late, as a load test does."""
    if orders == 0:
        target_share = f"{100 * target:g} %"
        return SloStatus(
            None, "No order finished in this time window.", f"The target is {target_share} within the limit."
        )
    result = evaluate_slo(orders, late, target)
    error_budget = (1 - target) * orders
    return SloStatus(
        result.verdict,
        _headline(result),
        f"With 95 % confidence at most {100 * result.late_bound:.2f} % are late. "
        f"Error budget: {error_budget:,.1f} late orders, {100 * late / error_budget:.0f} % used.",
    )


def _headline(result: SloResult) -> str:
    on_time = f"{result.orders - result.late:,} of {result.orders:,} orders were within their limit"
    target = f"{100 * result.target:g} %"
    if result.verdict is SloVerdict.NOT_PROVEN:
        more = f"{result.more_needed:,} more, all on time"
        return f"SLO not proven: {on_time}; {more}, would prove the target of {target}."
    share = 100 * (1 - result.late / result.orders)
    return f"SLO {result.verdict}: {on_time} ({share:.2f} %); the target is {target}."
