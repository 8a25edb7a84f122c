"""The contents of the cards on the Reviews page."""

from db.database import Row
from db.domain import Step
from orchestrator.deadlines import OrderDeadlines


def review_time(order: Row) -> tuple[float, float]:
    """Return the seconds until the review of an order expires, and the seconds from acceptance to its expiry.

    A review expires before the order's deadline. `order` comes from
    `db.read_models.live_orders.orders_awaiting_review`.
    """
    accepted_at = order["accepted_at"]
    expires_at = OrderDeadlines(accepted_at, order["deadline_at"] - accepted_at).not_after(Step.REVIEW)
    total = (expires_at - accepted_at).total_seconds()
    return max((expires_at - order["read_at"]).total_seconds(), 0.0), total


def contents(order: Row) -> str:
    """Return the first items and the city of an order, in one line."""
    items = ", ".join(f"{item['quantity']} × {item['sku']}" for item in order["items"][:3])
    more = f" and {len(order['items']) - 3} more" if len(order["items"]) > 3 else ""
    return f"{items}{more}, to {order['address']['city']}"
