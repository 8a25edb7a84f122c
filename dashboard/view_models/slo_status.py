"""The SLO result of recent orders: one verdict and one sentence."""

from typing import NamedTuple

from loadtest.verdict.slo import SloResult, SloVerdict, evaluate_slo

SLO_TARGET = 0.99
"""The target of orders outside a load test."""


class SloStatus(NamedTuple):
    """The verdict (None without orders), a sentence with the numbers, and the same as a headline with detail.

    All texts are Markdown.
    """

    verdict: SloVerdict | None
    sentence: str
    headline: str
    detail: str = ""


def slo_status(orders: int, late: int, target: float) -> SloStatus:
    """Evaluate the SLO of finished and overdue `orders`, of which `late` are late, as a load test does."""
    if orders == 0:
        nothing = "No order finished in this time window."
        return SloStatus(None, nothing, nothing)
    result = evaluate_slo(orders, late, target)
    error_budget = (1 - target) * orders
    used = f"{100 * late / error_budget:.0f} %"
    bound = f"ith 95 % confidence at most {100 * result.late_bound:.2f} % are late."
    budget = f"Error budget: {error_budget:,.1f} late orders, {used} used."
    return SloStatus(
        result.verdict,
        f"**{100 * (1 - late / orders):.2f} % within the limit** ({late:,} late of {orders:,}); "
        f"w{bound} Target {100 * target:g} %: **{result.verdict}**. {budget}",
        _headline(result),
        f"W{bound} {budget}",
    )


def _headline(result: SloResult) -> str:
    on_time = f"{result.orders - result.late:,} of {result.orders:,} orders were within their limit"
    target = f"{100 * result.target:g} %"
    if result.verdict is SloVerdict.NOT_PROVEN:
        more = f"{result.more_needed:,} more, all on time"
        return f"SLO not proven: {on_time}; {more}, would prove the target of {target}."
    share = 100 * (1 - result.late / result.orders)
    return f"SLO {result.verdict}: {on_time} ({share:.2f} %); the target is {target}."
