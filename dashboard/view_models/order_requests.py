"""The requests that an order still accepts, and the number of its attempts."""

from db.database import Row
from db.domain import AttemptOutcome, State
from db.read_models.order_search import OrderDetails

BEFORE_APPROVAL = (State.RECEIVED, State.VALIDATED, State.IN_REVIEW)


def can_be_cancelled(order: Row) -> bool:
    """Return whether a cancellation or an address change can still succeed."""
    return why_not_cancelled(order) is None


def why_not_cancelled(order: Row) -> str | None:
    """Return why a cancellation would be rejected, or None if it can still succeed."""
    if State(order["state"]).is_terminal:
        return f"already {order['state']}"
    if order["abort_reason"] is not None:
        return f"already aborted: {order['abort_reason'].replace('_', ' ')}"
    if State(order["state"]).is_past(State.PREPARED):
        return "the carrier has the package"
    return None


def can_be_rejected(order: Row) -> bool:
    return order["abort_reason"] is None and State(order["state"]) in BEFORE_APPROVAL


def can_be_approved(details: OrderDetails) -> bool:
    """Return whether an approval can still succeed. An approval before the review counts as the approval."""
    is_approved = any(
        event["kind"] == "signal"
        and event["detail"].get("signal") == "approve_order"
        and event["detail"].get("accepted")
        for event in details.events
    )
    return can_be_rejected(details.order) and not is_approved


def attempt_counts(details: OrderDetails) -> tuple[int, int]:
    """Return the numbers of all and of failed attempts, for a running order counted from its events."""
    order = details.order
    if order["attempts"] is not None:
        return order["attempts"], order["failed_attempts"]
    outcomes = [event["outcome"] for event in details.events if event["kind"] == "attempt"]
    failed = sum(outcome != AttemptOutcome.OK for outcome in outcomes)
    return len(outcomes) + len(details.running_attempts), failed
