"""Order details for tests of the timeline."""

from datetime import UTC, datetime, timedelta

from db.read_models.order_search import OrderDetails

NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)


def after(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def attempt(step: str, number: int, outcome: str, start: float, ms: float, state: str = "received") -> dict:
    return {
        "at": after(start + ms / 1000), "kind": "attempt", "state": state, "step": step, "attempt": number,
        "outcome": outcome, "started_at": after(start), "duration_ms": ms, "worker": "w1",
        "detail": None if outcome == "ok" else {"error": "no <b>luck</b>"},
    }  # fmt: skip


def event(kind: str, at: float, state: str, **detail: object) -> dict:
    return {
        "at": after(at), "kind": kind, "state": state, "step": None, "attempt": None, "outcome": None,
        "started_at": None, "duration_ms": None, "worker": None, "detail": detail or None,
    }  # fmt: skip


def order_details(*events: dict, running_attempts: list[dict] | None = None, **order: object) -> OrderDetails:
    known = {
        "order_id": "o", "accepted_at": NOON, "deadline_at": after(15), "limit_at": after(15),
        "finished_at": after(4), "read_at": after(9), "aborted_at": None,
    }  # fmt: skip
    return OrderDetails(known | order, list(events), running_attempts or [])


ORDER_EVENTS = (
    event("accepted", 0.01, "received"),
    attempt("receive", 1, "error", 0.1, 100),
    attempt("receive", 2, "ok", 0.3, 200),
    event("state", 0.6, "in_review"),
    event("state", 2.6, "approved"),
    attempt("charge", 1, "timeout", 2.7, 300, "approved"),
    event("signal", 2.9, "approved", signal="update_address", accepted=True),
    attempt("charge", 2, "ok", 3.0, 500, "charged"),
    event("signal", 3.6, "charged", signal="cancel_order", accepted=False, reason="<i>x</i>"),
)
