"""Single orders and lists of orders, as the API returns them. Times are aware."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from psycopg.types.json import Jsonb

from db import queries
from db.database import Database, Row
from db.domain import (
    ACCEPTED_MESSAGES,
    COMPENSATIONS,
    EARLY_APPROVAL,
    Address,
    Reason,
    RequestResult,
    State,
    Step,
)
from db.transitions import STATE_MACHINE

_SQL = queries.load("order_details.sql")


@dataclass(frozen=True)
class StartConflicts:
    """Stored data that a start can conflict with: the fingerprint of the order with its order id, and the
    order that owns its payment id. `applied_request_ids` are those of the stored order."""

    fingerprint: str | None
    applied_request_ids: list[str]
    payment_owner: str | None


@dataclass(frozen=True)
class OrderSummary:
    """One order in brief. `reason` is the abort reason; `within_limit` is None until the outcome."""

    order_id: str
    run_id: str | None
    state: State
    current_step: Step | None
    reason: Reason | None
    amount_cents: int
    currency: str
    accepted_at: datetime
    last_event_at: datetime
    deadline_at: datetime
    completion_ms: int | None
    within_limit: bool | None


@dataclass(frozen=True)
class StoredOrder:
    """One order with its progress.

    `retries` counts the failed attempts of each step that had any; `recent_failures` are the last ten, oldest
    first (step, attempt, outcome, error, at); `abort_message` is the message of the request that aborted the
    order. `address` is None while no worker has recorded the order.
    """

    summary: OrderSummary
    completed_steps: list[Step]
    retries: dict[Step, int]
    recent_failures: list[Row]
    abort_message: str
    tracking: str | None
    address: Address | None
    address_version: int


@dataclass(frozen=True)
class AcceptedRequest:
    """An accepted request. `is_last`: no other request of its kind was accepted later."""

    result: RequestResult
    is_last: bool
    applied_request_ids: list[str]

    def has_applied(self, update_id: str) -> bool:
        """Return whether an update was accepted whose id begins with `update_id`."""
        return any(each.startswith(f"update-{update_id}") for each in self.applied_request_ids)


@dataclass(frozen=True)
class PageKey:
    """The last order of a page. The next page starts after it."""

    accepted_at: datetime
    order_id: str


async def start_conflicts(database: Database, order_id: str, payment_id: str) -> StartConflicts:
    row = await database.fetch_one(_SQL["start_conflicts"], {"order_id": order_id, "payment_id": payment_id})
    assert row is not None, "the statement joins onto a constant row"
    return StartConflicts(**row)


async def order(database: Database, order_id: str) -> StoredOrder | None:
    """Return one order, or None when there is none."""
    row = await database.fetch_one(_SQL["order"], {"order_id": order_id})
    if row is None:
        return None
    return StoredOrder(
        summary=_summary(row),
        completed_steps=_completed_steps(row),
        retries={step: row["retries"][step] for step in Step if step in row["retries"]},
        recent_failures=row["failures"],
        abort_message=row["message"] or "",
        tracking=row["tracking"],
        address=Address(**row["address"]),
        address_version=row["address_version"],
    )


async def accepted_request(
    database: Database, order_id: str, signal: str, detail: Row
) -> AcceptedRequest | None:
    """Return the last accepted request with this detail; None for an unknown order.

    Without such a request, the result has the current state of the order, and `is_last` is False.
    """
    accepted = {"signal": signal, "accepted": True}
    row = await database.fetch_one(
        _SQL["accepted_request"], {"order_id": order_id, "signal": Jsonb(accepted), "detail": Jsonb(detail)}
    )
    if row is None:
        return None
    is_early = signal == "approve_order" and row["state"] == State.RECEIVED
    message = EARLY_APPROVAL if is_early else ACCEPTED_MESSAGES[signal]
    result = RequestResult(True, message, State(row["state"] or row["order_state"]))
    return AcceptedRequest(result, row["is_last"], row["applied_request_ids"])


async def history(database: Database, order_id: str) -> list[Row] | None:
    """Return the events of an order with the columns of `events`, oldest first; None for an unknown order."""
    rows = await database.fetch_all(_SQL["order_history"], {"order_id": order_id})
    if not rows:
        return None
    return [row for row in rows if row["at"] is not None]


async def orders(
    database: Database,
    *,
    state: State | None = None,
    run_id: str | None = None,
    after: PageKey | None = None,
    limit: int = 50,
) -> list[OrderSummary]:
    """Return orders, newest first."""
    rows = await database.fetch_all(
        _SQL["list_orders"],
        {
            "state": state,
            "run_id": run_id,
            "before_at": after.accepted_at if after else None,
            "before_id": after.order_id if after else None,
            "limit": limit,
        },
    )
    return [_summary(row) for row in rows]


async def finished_among(database: Database, order_ids: Collection[str]) -> set[str]:
    """Return those of the given orders that have their outcome."""
    rows = await database.fetch_all(_SQL["finished_among"], {"order_ids": list(order_ids)})
    return {row["order_id"] for row in rows}


def _summary(row: Row) -> OrderSummary:
    columns = {name: row[name] for name in OrderSummary.__dataclass_fields__}
    enums = {
        "state": State(row["state"]),
        "current_step": Step(row["current_step"]) if row["current_step"] else None,
        "reason": Reason(row["reason"]) if row["reason"] else None,
    }
    return OrderSummary(**columns | enums)


def _completed_steps(row: Row) -> list[Step]:
    """Return the steps that took effect: a call that succeeded after the abort did not."""
    furthest = State(row["furthest_state"] or State.RECEIVED)
    completed = [
        each.step
        for each in STATE_MACHINE.transitions
        if furthest.is_past(each.due_state)
        or (each.step is Step.RECEIVE and each.step in row["successful_steps"])
    ]
    completed += [step for step in COMPENSATIONS if step in row["successful_steps"]]
    return [*completed, Step.FINISH] if State(row["state"]).is_terminal else completed
