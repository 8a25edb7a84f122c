"""An order that waits for a person, in brief."""

from db.database import Row
from db.domain import Step
from orchestrator.deadlines import OrderDeadlines


def time_to_decide(order: Row) -> tuple[float, float]:
    """The seconds that are left for the review, and those there were in all.

    A review ends well before the order's own deadline: what comes after it needs its time. Rows as of
    `db.read_models.live_orders.waiting_for_a_person`.
    """
    accepted_at = order["accepted_at"]
    review_ends = OrderDeadlines(accepted_at, order["deadline_at"] - accepted_at).not_after(Step.REVIEW)
    whole = (review_ends - accepted_at).total_seconds()
    return max((review_ends - order["read_at"]).total_seconds(), 0.0), whole


def contents(order: Row) -> str:
    """What is ordered and where it goes, in one line."""
    items = ", ".join(f"{item['quantity']} × {item['sku']}" for item in order["items"][:3])
    more = f" and {len(order['items']) - 3} more" if len(order["items"]) > 3 else ""
    return f"{items}{more}, to {order['address']['city']}"
