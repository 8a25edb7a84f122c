"""The SLO result of recent orders: one verdict and one sentence."""

from typing import NamedTuple

from loadtest.verdict.slo import SloVerdict, evaluate_slo

SLO_TARGET = 0.99
"""The target of orders outside a load test."""


class SloStatus(NamedTuple):
    """The verdict, and a sentence in Markdown with the numbers. `verdict` is None without orders."""

    verdict: SloVerdict | None
    sentence: str


def slo_status(orders: int, late: int, target: float) -> SloStatus:
    """Evaluate the SLO of finished and overdue `orders`, of which `late` are late, as a load test does."""
    if orders == 0:
        return SloStatus(None, "No order finished in this time window.")
    result = evaluate_slo(orders, late, target)
    error_budget = (1 - target) * orders
    used = f"{100 * late / error_budget:.0f} %"
    return SloStatus(
        result.verdict,
        f"**{100 * (1 - late / orders):.2f} % within the limit** ({late:,} late of {orders:,}); "
        f"with 95 % confidence at most {100 * result.late_bound:.2f} % are late. "
        f"Target {100 * target:g} %: **{result.verdict}**. "
        f"Error budget: {error_budget:,.1f} late orders, {used} used.",
    )
