"""The contents of the cards on the Reviews page."""

from db.database import Row


def review_time(order: Row) -> tuple[float, float]:
    """Return the seconds until the review of an order expires, and the seconds from acceptance to its expiry.

    `order` comes from `db.read_models.live_orders.orders_awaiting_review`.
    """
    expires_at = order["review_until"]
    total = (expires_at - order["accepted_at"]).total_seconds()
    return max((expires_at - order["read_at"]).total_seconds(), 0.0), total


def contents(order: Row) -> str:
    """Return the first items and the city of an order, in one line."""
    items = ", ".join(f"{item['quantity']} × {item['sku']}" for item in order["items"][:3])
    more = f" and {len(order['items']) - 3} more" if len(order["items"]) > 3 else ""
    return f"{items}{more}, to {order['address']['city']}"
