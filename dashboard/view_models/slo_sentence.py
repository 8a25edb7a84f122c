"""The SLO result as one sentence."""

from loadtest.verdict.slo import evaluate_slo


def slo_sentence(orders: int, late: int, target: float) -> str:
    """Return the share within the limit, its 95 % bound, and the rest of the error budget of `target`."""
    if orders == 0:
        return "No order finished in this time window."
    result = evaluate_slo(orders, late, target)
    budget = (1 - target) * orders
    used = "none of it used" if late == 0 else f"{100 * late / budget:.0f} % of it used"
    return (
        f"**{100 * (1 - late / orders):.2f} % within the limit** ({late:,} late of {orders:,}); "
        f"with 95 % confidence at most {100 * result.late_bound:.2f} % are late. "
        f"Target {100 * target:g} %: **{result.verdict}**. "
        f"Error budget {budget:,.1f} late orders, {used}."
    )
