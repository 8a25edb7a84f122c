"""Writes to our books: orders, their attempts, payments, shipments and events."""

import hashlib
import json
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from psycopg.types.json import Jsonb

from db import queries
from db.database import Database, Row
from db.domain import Address, AttemptOutcome, Item, Reason, State, Step
from orchestrator.messages import (
    AbortRequest,
    ApproveRequest,
    ChangeAddressRequest,
    OrderRequest,
    RequestResult,
)

_SQL = queries.load("orders.sql")

DUE_STATE: dict[Step, State] = {
    Step.RECEIVE: State.RECEIVED,
    Step.VALIDATE: State.RECEIVED,
    Step.CHARGE: State.APPROVED,
    Step.PREPARE: State.CHARGED,
    Step.DISPATCH: State.PREPARED,
}
"""The one state in which a forward step may be tried. Compensations are due once the order is aborted."""

STATE_AFTER: dict[Step, State] = {
    Step.RECEIVE: State.RECEIVED,
    Step.VALIDATE: State.VALIDATED,
    Step.CHARGE: State.CHARGED,
    Step.PREPARE: State.PREPARED,
    Step.DISPATCH: State.DISPATCHED,
}

FINISH_TRIES = 3
"""How often an outcome is tried that other statements on the same order may hold up."""

_REVIEW_REASONS = (Reason.REVIEW_REJECTED, Reason.REVIEW_EXPIRED)
"""Reasons that only count until the order is approved."""

_NEXT_STEP: dict[Step, Step] = {
    Step.RECEIVE: Step.VALIDATE,
    Step.VALIDATE: Step.REVIEW,
    Step.CHARGE: Step.PREPARE,
    Step.PREPARE: Step.DISPATCH,
    Step.DISPATCH: Step.FINISH,
}


@dataclass(frozen=True)
class StartedAttempt:
    """An attempt that the books have opened, with what the call needs to know, read at that moment."""

    number: int
    order_id: str
    payment_id: str
    amount_cents: int
    address: Address
    address_version: int
    items: list[Item]
    owns_payment: bool
    """False on a refund for an order that named the payment of another one, which must be left alone."""


@dataclass(frozen=True)
class AttemptResult:
    """How an attempt ended; `duration_ms` is the time of the call alone."""

    number: int
    outcome: AttemptOutcome
    duration_ms: float
    detail: Row


@dataclass(frozen=True)
class OrderSnapshot:
    """Where an order stands. `charge_tried` and `shipping_tried`: a call of that kind was ever begun."""

    state: State
    abort_reason: Reason | None
    address_version: int
    completion_ms: int | None
    limit_ms: int
    owns_payment: bool
    charge_tried: bool
    shipping_tried: bool
    applied_request_ids: frozenset[str]

    @property
    def compensations(self) -> list[Step]:
        """What was tried of an aborted order; the books let nothing more be tried of it."""
        if self.abort_reason is None:
            return []
        tried = {Step.REFUND: self.charge_tried, Step.RECALL: self.shipping_tried}
        return [step for step, was_tried in tried.items() if was_tried]


class StaleAttempt(Exception):
    """Another worker has taken this step over."""


def fingerprint(order: OrderRequest) -> str:
    """A digest of what the customer asked for: equal for a repeated request, different for another one.

    `requested_at` and `run_id` say when and by which test an order was sent, not what was ordered.
    """
    content = {
        "address": asdict(order.initial_address),
        "items": [asdict(item) for item in order.items],
        "payment_id": order.payment_id,
        "review": order.review,
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]


class OrderRepository:
    """One worker's pen: every event it writes carries its name."""

    def __init__(self, database: Database, worker: str) -> None:
        self._database = database
        self._worker = worker

    async def insert_order(
        self, order: OrderRequest, workflow_run_id: str, accepted_at: datetime, deadline_at: datetime
    ) -> bool:
        """Takes an order into the books, once.

        Returns whether the books hold it for this workflow run: False means that an earlier run of the
        same order id has it.
        """
        parameters = {
            "order_id": order.order_id,
            "workflow_run_id": workflow_run_id,
            "run_id": order.run_id,
            "fingerprint": fingerprint(order),
            "address": Jsonb(asdict(order.initial_address)),
            "items": Jsonb([asdict(item) for item in order.items]),
            "amount_cents": order.amount_cents,
            "payment_id": order.payment_id,
            "review": order.review.value,
            "requested_at": order.requested_at,
            "accepted_at": accepted_at,
            "deadline_at": deadline_at,
            "worker": self._worker,
        }
        if await self._database.execute(_SQL["insert_order"], parameters):
            return True
        owner = await self._database.fetch_one(_SQL["order_owner"], {"order_id": order.order_id})
        return owner is not None and owner["workflow_run_id"] == workflow_run_id

    async def start_next_attempt(
        self, order_id: str, step: Step, ended: AttemptResult | None = None
    ) -> StartedAttempt | None:
        """Begins the next attempt of a step and closes the one before it.

        Returns None, having written nothing, when the step is not due (any more). Raises StaleAttempt when
        `ended` is not the latest attempt.
        """
        due_state = DUE_STATE.get(step)
        row = await self._database.fetch_one(
            _SQL["start_next_attempt"],
            {
                "order_id": order_id,
                "step": step.value,
                "due_state": due_state.value if due_state else None,
                "worker": self._worker,
                "ended_attempt": ended.number if ended else None,
                "ended_outcome": ended.outcome.value if ended else None,
                "ended_duration_ms": ended.duration_ms if ended else None,
                "ended_detail": Jsonb(ended.detail) if ended else None,
            },
        )
        if row is None:
            return None
        if row["attempt"] is None:
            raise StaleAttempt
        return StartedAttempt(
            number=row["attempt"],
            order_id=order_id,
            payment_id=row["payment_id"],
            amount_cents=row["amount_cents"],
            address=Address(**row["address"]),
            address_version=row["address_version"],
            items=[Item(**item) for item in row["items"]],
            owns_payment=row["owns_payment"],
        )

    async def end_attempt(self, order_id: str, step: Step, ended: AttemptResult) -> None:
        await self._database.execute(
            _SQL["end_attempt"],
            {
                "order_id": order_id,
                "step": step.value,
                "attempt": ended.number,
                "outcome": ended.outcome.value,
                "duration_ms": ended.duration_ms,
                "detail": Jsonb(ended.detail),
            },
        )

    async def complete_step(
        self, order_id: str, step: Step, ended: AttemptResult, label_version: int | None = None
    ) -> bool:
        """Records that a step worked. Returns whether it took effect (see the statement)."""
        parameters: Row = {
            "order_id": order_id,
            "step": step.value,
            "attempt": ended.number,
            "duration_ms": ended.duration_ms,
            "worker": self._worker,
            "detail": Jsonb(ended.detail),
        }
        if step not in DUE_STATE:
            return await self._database.fetch_one(_SQL["complete_compensation"], parameters) is not None
        parameters |= {
            "due_state": DUE_STATE[step].value,
            "new_state": STATE_AFTER[step].value,
            "next_step": _NEXT_STEP[step].value,
            "label_version": label_version,
        }
        return await self._database.fetch_one(_SQL["complete_step"], parameters) is not None

    async def abort(self, request: AbortRequest) -> RequestResult:
        """Turns an order back, unless it has been already or it is past the point where it could be."""
        detail = {"reason": request.reason.value, "by": request.requested_by, "message": request.message}
        before = State.APPROVED if request.reason in _REVIEW_REASONS else State.DISPATCHED
        row = await self._database.fetch_one(
            _SQL["abort_order"],
            {
                "order_id": request.order_id,
                "reason": request.reason.value,
                "by": request.requested_by,
                "before_state": before.value,
                "request_id": request.request_id,
                "kind": "signal" if request.signal else "abort",
                "worker": self._worker,
                "detail": Jsonb(_signal_detail(request.signal, accepted=True, **detail)),
            },
        )
        if row is not None:
            # Read afterwards: the statement itself does not see an attempt that it had to wait for.
            standing = await self.standing(request.order_id)
            compensations = standing.compensations if standing is not None else []
            return RequestResult(
                True, "the order is being cancelled", State(row["state"]), request.reason, compensations
            )
        return await self._answer_again(request.order_id, request.request_id, request.signal, detail)

    async def approve(self, request: ApproveRequest) -> RequestResult:
        detail = {"reviewer": request.reviewer}
        row = await self._database.fetch_one(
            _SQL["approve_order"],
            {
                "order_id": request.order_id,
                "reviewer": request.reviewer,
                "request_id": request.request_id,
                "kind": "signal" if request.signal else "state",
                "worker": self._worker,
                "detail": Jsonb(_signal_detail(request.signal, accepted=True, **detail)),
            },
        )
        if row is not None:
            return RequestResult(True, "the order is approved", State.APPROVED)
        return await self._answer_again(request.order_id, request.request_id, request.signal, detail)

    async def change_address(self, request: ChangeAddressRequest) -> RequestResult:
        signal = "update_address"
        detail = {"by": request.updated_by, "new_address": asdict(request.new_address)}
        row = await self._database.fetch_one(
            _SQL["change_address"],
            {
                "order_id": request.order_id,
                "address": Jsonb(asdict(request.new_address)),
                "request_id": request.request_id,
                "worker": self._worker,
                "detail": Jsonb(_signal_detail(signal, accepted=True, **detail)),
            },
        )
        if row is not None:
            return RequestResult(True, "the address is changed", State(row["state"]))
        return await self._answer_again(request.order_id, request.request_id, signal, detail)

    async def note_signal(
        self, order_id: str, signal: str, *, accepted: bool, request_id: str | None = None, **detail: object
    ) -> None:
        """Writes down a request; one that is accepted and has a `request_id` only once."""
        await self._database.execute(
            _SQL["note_signal"],
            {
                "order_id": order_id,
                "request_id": request_id if accepted else None,
                "worker": self._worker,
                "detail": Jsonb(_signal_detail(signal, accepted=accepted, **detail)),
            },
        )

    async def standing(self, order_id: str) -> OrderSnapshot | None:
        row = await self._database.fetch_one(_SQL["standing"], {"order_id": order_id})
        if row is None:
            return None
        return OrderSnapshot(
            state=State(row["state"]),
            abort_reason=Reason(row["abort_reason"]) if row["abort_reason"] else None,
            address_version=row["address_version"],
            completion_ms=row["completion_ms"],
            limit_ms=row["limit_ms"],
            owns_payment=bool(row["owns_payment"]),
            charge_tried=row["charge_tried"],
            shipping_tried=row["shipping_tried"],
            applied_request_ids=frozenset(row["applied_request_ids"]),
        )

    async def finish(self, order_id: str, outcome: State) -> OrderSnapshot:
        """Writes the outcome where the order is ready for it, and returns how the books stand then.

        Raises LookupError for an order that is not in the books.
        """
        parameters = {"order_id": order_id, "outcome": outcome.value, "worker": self._worker}
        for _ in range(FINISH_TRIES):
            if await self._database.execute(_SQL["finish_order"], parameters):
                break
            # Not ready, or another statement came in between.
        standing = await self.standing(order_id)
        if standing is None:
            raise LookupError(order_id)
        return standing

    async def _answer_again(
        self, order_id: str, request_id: str | None, signal: str | None, detail: Row
    ) -> RequestResult:
        """The answer to a request that took no effect now: because it did before, or came too late."""
        standing = await self.standing(order_id)
        if standing is None:
            raise LookupError(order_id)
        if request_id is not None and request_id in standing.applied_request_ids:
            return RequestResult(
                True, "accepted", standing.state, standing.abort_reason, standing.compensations
            )
        if signal is not None:
            await self.note_signal(order_id, signal, accepted=False, **detail)
        return RequestResult(
            False, _why_too_late(standing), standing.state, standing.abort_reason, standing.compensations
        )


def _signal_detail(signal: str | None, *, accepted: bool, **detail: Any) -> Row:
    return {"signal": signal, "accepted": accepted, **detail} if signal else detail


def _why_too_late(standing: OrderSnapshot) -> str:
    if standing.state.is_terminal:
        return f"too late: the order is {standing.state}"
    if standing.abort_reason is not None:
        return f"too late: the order is being undone ({standing.abort_reason})"
    if standing.state is State.DISPATCHED:
        return "too late: the carrier has the parcel"
    return f"too late: the order is already {standing.state}"
