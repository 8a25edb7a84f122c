"""The timeline of one order, in seconds since acceptance: attempts, review, waiting times and requests."""

from dataclasses import dataclass

from db.database import Row
from db.domain import State, Step
from db.read_models.order_search import OrderDetails

WAITING = "waiting"
RUNNING = "running"
REVIEW = "review"


@dataclass(frozen=True)
class Bar:
    """`row` is a step or WAITING; `kind` is an attempt's outcome, RUNNING, REVIEW or WAITING."""

    row: str
    kind: str
    start_seconds: float
    end_seconds: float
    attempt: int | None = None
    worker: str | None = None
    error: str = ""


@dataclass(frozen=True)
class Mark:
    """A request to the order, or its abort."""

    at_seconds: float
    name: str
    is_accepted: bool
    detail: str


def bars(details: OrderDetails) -> list[Bar]:
    """Return a bar for each attempt, for the review, and for each gap between them as waiting time."""
    order = details.order

    def seconds(column: str, row: Row = order) -> float:
        return float((row[column] - order["accepted_at"]).total_seconds())

    busy = [
        Bar(
            event["step"],
            event["outcome"],
            seconds("started_at", event),
            seconds("started_at", event) + (event["duration_ms"] or 0.0) / 1000,
            event["attempt"],
            event["worker"],
            str((event["detail"] or {}).get("error", "")),
        )
        for event in details.events
        if event["kind"] == "attempt" and event["started_at"] is not None
    ]
    end = seconds("finished_at" if order["finished_at"] else "read_at")
    busy += [
        Bar(each["step"], RUNNING, seconds("started_at", each), end, each["attempt"], each["worker"])
        for each in details.running_attempts
    ]
    review = next(
        (event for event in details.events if event["kind"] == "state" and event["state"] == State.IN_REVIEW),
        None,
    )
    if review is not None:
        start, review_end = seconds("at", review), seconds("aborted_at") if order["aborted_at"] else end
        approved = next((event for event in details.events if event["state"] == State.APPROVED), None)
        if approved is not None:
            review_end = seconds("at", approved)
        busy.append(Bar(Step.REVIEW, REVIEW, start, max(start, review_end)))
    return [*busy, *_waiting(busy, end)]


def _waiting(busy: list[Bar], end: float) -> list[Bar]:
    waiting, reached = [], 0.0
    for bar in sorted(busy, key=lambda each: each.start_seconds):
        if bar.start_seconds > reached:
            waiting.append(Bar(WAITING, WAITING, reached, min(bar.start_seconds, end)))
        reached = max(reached, bar.end_seconds)
    if end > reached:
        waiting.append(Bar(WAITING, WAITING, reached, end))
    return waiting


def marks(details: OrderDetails) -> list[Mark]:
    """Return the requests to the order and its abort."""
    accepted_at = details.order["accepted_at"]
    found = []
    for event in details.events:
        if event["kind"] not in ("signal", "abort"):
            continue
        detail = event["detail"] or {}
        name = str(detail.get("signal") or detail.get("reason") or event["kind"])
        found.append(
            Mark(
                (event["at"] - accepted_at).total_seconds(),
                name.replace("_", " "),
                bool(detail.get("accepted", event["kind"] == "abort")),
                ", ".join(f"{key}: {value}" for key, value in detail.items() if key != "signal"),
            )
        )
    return found
