"""What the Reviews page shows of an order."""

from db.database import Row
from db.domain import Step
from orchestrator.deadlines import OrderDeadlines


def review_time(order: Row) -> tuple[float, float]:
    """Return the seconds left for the review, and how long reviews may take in total.

    The review expires before the order's deadline. Rows as returned by
    `db.read_models.live_orders.orders_awaiting_review`.
    """
    accepted_at = order["accepted_at"]
    expires_at = OrderDeadlines(accepted_at, order["deadline_at"] - accepted_at).not_after(Step.REVIEW)
    total = (expires_at - accepted_at).total_seconds()
    return max((expires_at - order["read_at"]).total_seconds(), 0.0), total


def contents(order: Row) -> str:
    """Return items and destination in one line."""
    items = ", ".join(f"{item['quantity']} × {item['sku']}" for item in order["items"][:3])
    more = f" and {len(order['items']) - 3} more" if len(order["items"]) > 3 else ""
    return f"{items}{more}, to {order['address']['city']}"
