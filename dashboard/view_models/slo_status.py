"""The SLO result of recent orders: one verdict and one sentence."""

from typing import NamedTuple

from loadtest.verdict.slo import SloVerdict, evaluate_slo


class SloStatus(NamedTuple):
    """`verdict` is None without orders."""

    verdict: SloVerdict | None
    sentence: str


def slo_status(orders: int, late: int, target: float) -> SloStatus:
    """Return the verdict by the criterion of a load test, the share within the limit and its 95 % bound."""
    if orders == 0:
        return SloStatus(None, "No order finished in this time window.")
    result = evaluate_slo(orders, late, target)
    budget = (1 - target) * orders
    used = "none of it used" if late == 0 else f"{100 * late / budget:.0f} % of it used"
    return SloStatus(
        result.verdict,
        f"**{100 * (1 - late / orders):.2f} % within the limit** ({late:,} late of {orders:,}); "
        f"with 95 % confidence at most {100 * result.late_bound:.2f} % are late. "
        f"Target {100 * target:g} %: **{result.verdict}**. "
        f"Error budget {budget:,.1f} late orders, {used}.",
    )
