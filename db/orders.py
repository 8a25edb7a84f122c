"""Writes to the order tables: orders, attempts, payments, shipments and events.

Every method may be repeated after an error whose effect is unknown: the statements are idempotent. All raise
DatabaseError and ValueRejected (`db.errors`).
"""

from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from typing import Any

from psycopg.types.json import Jsonb

from db import queries
from db.currencies import DEFAULT_CURRENCY
from db.database import Database, Row
from db.domain import (
    ACCEPTED_MESSAGES,
    Address,
    AttemptOutcome,
    Item,
    NewOrder,
    Reason,
    RequestResult,
    State,
    Step,
    TemporalNamespace,
)
from db.errors import WrongDatabase
from db.transitions import STATE_MACHINE

_SQL = queries.load("orders.sql")

FINISH_ATTEMPTS = 3
"""Maximum number of executions of the statement of `finish`. It has no effect when it had to wait for a
concurrent update of the order."""


@dataclass(frozen=True)
class StartedAttempt:
    """An attempt that was started, with the order's data that the gateway call needs.

    `owns_payment` is False when the payment id belongs to another order. It is checked only for the steps
    validate and refund, and True for all others. Only validate, charge and refund have `payment_method` and
    `payment_reference`. `since_abort` is the time since the order was aborted.
    """

    number: int
    order_id: str
    payment_id: str
    amount_cents: int
    address: Address
    address_version: int
    items: list[Item]
    owns_payment: bool
    currency: str = DEFAULT_CURRENCY
    payment_method: str | None = None
    payment_reference: str | None = None
    since_abort: timedelta | None = None


@dataclass(frozen=True)
class AttemptResult:
    """How an attempt ended; `duration_ms` is the time of the gateway call alone."""

    number: int
    outcome: AttemptOutcome
    duration_ms: float
    detail: Row


@dataclass(frozen=True)
class OrderSnapshot:
    """The state of an order. `attempted_steps` are the steps of which an attempt was started."""

    state: State
    current_step: Step | None
    abort_reason: Reason | None
    completion_ms: int | None
    limit_ms: int
    attempted_steps: frozenset[Step]
    applied_request_ids: frozenset[str]
    address_version: int

    @property
    def compensations(self) -> list[Step]:
        """The compensations that an aborted order needs. No further step is started once it is aborted."""
        if self.abort_reason is None:
            return []
        reverted = STATE_MACHINE.compensations()
        return [step for step, steps in reverted.items() if not self.attempted_steps.isdisjoint(steps)]

    def has_replaced(self, address_version: int | None) -> bool:
        """Return whether the order still accepts an address, and has another than this version."""
        can_change = self.abort_reason is None and STATE_MACHINE.no_abort_from.is_past(self.state)
        return can_change and address_version not in (None, self.address_version)

    def has_completed(self, step: Step) -> bool:
        """Return whether a forward step took effect; only for an order that was not aborted."""
        return STATE_MACHINE.is_completed(step, self.current_step)


class StaleAttempt(Exception):
    """Another worker has started a later attempt of this step."""


class OrderRepository:
    """Writes to the order tables; tags each event with the worker's identity, and each new order with the
    worker's Temporal namespace."""

    def __init__(self, database: Database, worker: str, temporal: TemporalNamespace) -> None:
        self._database = database
        self._temporal = temporal
        self._common_parameters = {"worker": worker, "no_abort_from": STATE_MACHINE.no_abort_from}

    async def insert_order(self, order: NewOrder) -> bool:
        """Insert an order unless it exists. Return False when it exists for another workflow run.

        Raises WrongDatabase when the order was placed for another order database.
        """
        parameters = vars(order) | {
            "temporal_cluster_id": self._temporal.cluster_id,
            "temporal_namespace": self._temporal.name,
            "address": Jsonb(order.address.to_json()),
            "items": Jsonb([asdict(item) for item in order.items]),
        }
        if await self._execute("insert_order", **parameters):
            return True
        row = await self._fetch_one("workflow_run", order_id=order.order_id)
        if row is None:
            raise WrongDatabase(f"order {order.order_id} was placed for order database {order.database_id}")
        is_same: bool = row["workflow_run_id"] == order.workflow_run_id
        return is_same

    async def start_next_attempt(
        self, order_id: str, step: Step, ended: AttemptResult | None = None
    ) -> StartedAttempt | None:
        """Start the next attempt of a step and close the previous one: with `ended`, or as lost.

        Return None, without any change, when the step is not due. Raise StaleAttempt when `ended` is not the
        latest attempt.
        """
        transition = STATE_MACHINE.of(step)
        row = await self._fetch_one(
            "start_next_attempt",
            order_id=order_id,
            step=step,
            due_state=transition.due_state if transition else None,
            ended_attempt=ended.number if ended else None,
            ended_outcome=ended.outcome if ended else None,
            ended_duration_ms=ended.duration_ms if ended else None,
            ended_detail=Jsonb(ended.detail) if ended else None,
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
            currency=row["currency"],
            payment_method=row["payment_method"],
            payment_reference=row["payment_reference"],
            since_abort=row["since_abort"],
        )

    async def end_attempt(
        self, order_id: str, step: Step, ended: AttemptResult, *, is_retried: bool = False
    ) -> None:
        """Close an attempt that the caller does not retry. `is_retried`: a later execution retries it."""
        await self._execute(
            "end_attempt",
            order_id=order_id,
            step=step,
            attempt=ended.number,
            outcome=ended.outcome,
            duration_ms=ended.duration_ms,
            detail=Jsonb(ended.detail),
            is_retried=is_retried,
        )

    async def complete_step(
        self, order_id: str, step: Step, ended: AttemptResult, label_version: int | None = None
    ) -> bool:
        """Record that a step succeeded. Return whether the step took effect.

        The step has no effect when a later attempt was started, when the step is not due any more, or when
        the address on the parcel's label (`label_version`) is not the order's current one.
        """
        parameters: Row = {
            "order_id": order_id,
            "step": step,
            "attempt": ended.number,
            "duration_ms": ended.duration_ms,
            "detail": Jsonb(ended.detail),
        }
        transition = STATE_MACHINE.of(step)
        if transition is None:
            return await self._fetch_one("complete_compensation", **parameters) is not None
        row = await self._fetch_one(
            "complete_step",
            **parameters,
            due_state=transition.due_state,
            passed_state=transition.passed_state,
            state_after=transition.state_after,
            next_step=transition.next_step,
            label_version=label_version,
        )
        return row is not None

    async def abort(
        self,
        order_id: str,
        reason: Reason,
        by: str,
        message: str = "",
        *,
        signal: str | None = None,
        request_id: str | None = None,
        address_version: int | None = None,
    ) -> RequestResult:
        """Abort an order, unless it was aborted before or can no longer be.

        `signal` names the request of a person; None is a decision of the system. A repeated `request_id` gets
        the first decision. With an `address_version`, an order whose address has another version is not
        aborted.
        """
        result = await self._decide(
            "abort_order",
            order_id,
            signal,
            ACCEPTED_MESSAGES[signal or "cancel_order"],
            {"reason": reason, "by": by, "message": message},
            request_id=request_id,
            address_version=address_version,
            reason=reason,
            by=by,
            before_state=STATE_MACHINE.abort_limit(reason),
            kind="signal" if signal else "abort",
        )
        if not result.accepted:
            return result
        # Read after the statement, which does not see an attempt that committed while it waited for the lock.
        snapshot = await self._existing_snapshot(order_id)
        return replace(result, abort_reason=reason, compensations=snapshot.compensations)

    async def approve(
        self, order_id: str, reviewer: str, *, signal: str | None = None, request_id: str | None = None
    ) -> RequestResult:
        """Approve an order that is in review and not aborted; parameters as of `abort`."""
        transition = STATE_MACHINE.of(Step.REVIEW)
        assert transition is not None
        return await self._decide(
            "approve_order",
            order_id,
            signal,
            ACCEPTED_MESSAGES["approve_order"],
            {"reviewer": reviewer},
            request_id=request_id,
            reviewer=reviewer,
            due_state=transition.due_state,
            state_after=transition.state_after,
            next_step=transition.next_step,
            kind="signal" if signal else "state",
        )

    async def change_address(
        self,
        order_id: str,
        address: Address,
        by: str,
        *,
        request_id: str | None = None,
        address_version: int | None = None,
    ) -> RequestResult:
        """Change the address of an order that was neither dispatched nor aborted.

        With `address_version`, only if the order's address still has this version.
        """
        return await self._decide(
            "change_address",
            order_id,
            "update_address",
            ACCEPTED_MESSAGES["update_address"],
            {"by": by, "new_address": address.to_json()},
            request_id=request_id,
            address_version=address_version,
            address=Jsonb(address.to_json()),
        )

    async def record_request(
        self, order_id: str, signal: str, *, accepted: bool, request_id: str | None = None, **detail: object
    ) -> None:
        """Record a request that changes nothing else; an accepted one with a `request_id` only once."""
        await self._execute(
            "record_request",
            order_id=order_id,
            request_id=request_id if accepted else None,
            detail=Jsonb(_event_detail(signal, accepted=accepted, **detail)),
        )

    async def snapshot(self, order_id: str) -> OrderSnapshot | None:
        """Return the state of an order, or None when there is no such order."""
        row = await self._fetch_one("order_snapshot", order_id=order_id)
        if row is None:
            return None
        return OrderSnapshot(
            state=State(row["state"]),
            current_step=Step(row["current_step"]) if row["current_step"] else None,
            abort_reason=Reason(row["abort_reason"]) if row["abort_reason"] else None,
            completion_ms=row["completion_ms"],
            limit_ms=row["limit_ms"],
            attempted_steps=frozenset(Step(step) for step in row["attempted_steps"]),
            applied_request_ids=frozenset(row["applied_request_ids"]),
            address_version=row["address_version"],
        )

    async def finish(self, order_id: str, outcome: State) -> OrderSnapshot:
        """Write the outcome if the order is ready for it, and return the order's state after that.

        Raises LookupError when there is no such order.
        """
        for _ in range(FINISH_ATTEMPTS):
            if await self._execute("finish_order", order_id=order_id, outcome=outcome):
                break
        return await self._existing_snapshot(order_id)

    async def _decide(
        self,
        statement: str,
        order_id: str,
        signal: str | None,
        accepted_message: str,
        detail: Row,
        *,
        request_id: str | None,
        address_version: int | None = None,
        **parameters: object,
    ) -> RequestResult:
        """Execute the statement of a request, which returns a row if it changed the order. Return the
        decision; `detail` is that of its event."""
        row = await self._fetch_one(
            statement,
            order_id=order_id,
            request_id=request_id,
            address_version=address_version,
            detail=Jsonb(_event_detail(signal, accepted=True, **detail)),
            **parameters,
        )
        if row is not None:
            return RequestResult(True, accepted_message, State(row["state"]))
        # The request is a repeated, an outdated or a late one.
        snapshot = await self._existing_snapshot(order_id)
        was_applied = request_id is not None and request_id in snapshot.applied_request_ids
        if signal is not None and not was_applied:
            await self.record_request(order_id, signal, accepted=False, **detail)
        is_outdated = not was_applied and snapshot.has_replaced(address_version)
        if was_applied:
            message = "accepted"
        elif is_outdated:
            message = (
                f"the address has changed: it has version {snapshot.address_version}, not {address_version}"
            )
        else:
            message = _too_late_message(snapshot)
        return RequestResult(
            accepted=was_applied,
            message=message,
            state=snapshot.state,
            abort_reason=snapshot.abort_reason,
            compensations=snapshot.compensations,
            is_outdated=is_outdated,
        )

    async def _fetch_one(self, name: str, **parameters: object) -> Row | None:
        return await self._database.fetch_one(_SQL[name], parameters | self._common_parameters)

    async def _execute(self, name: str, **parameters: object) -> int:
        return await self._database.execute(_SQL[name], parameters | self._common_parameters)

    async def _existing_snapshot(self, order_id: str) -> OrderSnapshot:
        snapshot = await self.snapshot(order_id)
        if snapshot is None:
            raise LookupError(order_id)
        return snapshot


def _event_detail(signal: str | None, *, accepted: bool, **detail: Any) -> Row:
    return {"signal": signal, "accepted": accepted, **detail} if signal else detail


def _too_late_message(snapshot: OrderSnapshot) -> str:
    if snapshot.state.is_terminal:
        return f"too late: the order is {snapshot.state}"
    if snapshot.abort_reason is not None:
        return f"too late: the order was aborted ({snapshot.abort_reason})"
    if snapshot.state is State.DISPATCHED:
        return "too late: the carrier has the parcel"
    return f"too late: the order is already {snapshot.state}"
