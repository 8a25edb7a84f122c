"""How sure it is that the limit is kept, in one sentence."""

from loadtest.verdict.slo import evaluate_slo


def limit_sentence(orders: int, late: int, target: float) -> str:
    """The share within the limit, its 95 % bound, and what is left of the error budget of `target`."""
    if orders == 0:
        return "No order finished in this window, so there is nothing to judge yet."
    judgement = evaluate_slo(orders, late, target)
    budget = (1 - target) * orders
    used = "none of it used" if late == 0 else f"{100 * late / budget:.0f} % of it used"
    return (
        f"**{100 * (1 - late / orders):.2f} % within the limit** ({late:,} late of {orders:,}); "
        f"with 95 % confidence at most {100 * judgement.late_bound:.2f} % are late. "
        f"Target {100 * target:g} %: **{judgement.verdict}**. "
        f"Error budget {budget:,.1f} late orders, {used}."
    )
