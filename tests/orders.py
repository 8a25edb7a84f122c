"""Test orders, and a driver that moves an order to any state through the real order repository."""

from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any
from uuid import uuid4

from db.database import Database, Row
from db.domain import (
    GATEWAY_STEPS,
    Address,
    AttemptOutcome,
    Reason,
    RequestResult,
    State,
    Step,
    TemporalNamespace,
)
from db.orders import AttemptResult, OrderRepository
from db.transitions import STATE_MACHINE
from orchestrator.gateways.fault_injection import FaultInjector, named_profile
from orchestrator.messages.orders import OrderRequest

TEMPORAL = TemporalNamespace("cluster-of-the-tests", "default")
ADDRESS = Address("1 Main Street", "Springfield", "IL", "62701")
OTHER_ADDRESS = Address("2 Side Street", "Shelbyville", "IL", "62565")

NO_FAULTS = FaultInjector(named_profile("none"))

STEP_INTO = {
    State.IN_REVIEW: Step.VALIDATE,
    State.CHARGED: Step.CHARGE,
    State.PREPARED: Step.PREPARE,
    State.DISPATCHED: Step.DISPATCH,
}
DUE_STATE = {each.step: each.due_state for each in STATE_MACHINE.transitions if each.step in GATEWAY_STEPS}
"""The forward steps that call a gateway, with the state in which each is due."""

COMPENSATION_DETAILS: dict[Step, Row] = {Step.REFUND: {"refund_outcome": "refunded"}, Step.RECALL: {}}
"""The compensations of a prepared order, with the details of a successful attempt."""

RESTING_STATES = (
    State.RECEIVED,
    State.IN_REVIEW,
    State.APPROVED,
    State.CHARGED,
    State.PREPARED,
    State.DISPATCHED,
)
"""The states that an order can be found in. `validated` is passed within one transaction."""


def new_order(**changes: Any) -> OrderRequest:
    """Return an order with unique ids, with `changes` applied."""
    order_id = f"order-{uuid4().hex[:10]}"
    order = OrderRequest(order_id, ADDRESS, f"payment-{order_id}", datetime.now(UTC))
    return replace(order, **changes)


class OrderDriver:
    """Moves orders from state to state, one statement of the repository at a time."""

    def __init__(self, repository: OrderRepository, pool: Database) -> None:
        self.repository = repository
        self.pool = pool

    async def open(self, order: OrderRequest | None = None, *, accepted_at: datetime | None = None) -> str:
        order = order or new_order()
        accepted_at = accepted_at or datetime.now(UTC)
        assert await self.repository.insert_order(order.new_order(f"run-{order.order_id}", accepted_at))
        return order.order_id

    async def step(self, order_id: str, step: Step, duration_ms: float = 0.5, **detail: Any) -> bool:
        """Run one attempt that succeeds; return whether the step took effect."""
        attempt = await self.repository.start_next_attempt(order_id, step)
        if attempt is None:
            return False
        if step is Step.DISPATCH:
            detail = {"tracking": "TRK-1", **detail}
        version = attempt.address_version if step is Step.DISPATCH else None
        return await self.repository.complete_step(
            order_id, step, ok(attempt.number, duration_ms, **detail), version
        )

    async def carry_to(self, state: State, order: OrderRequest | None = None) -> str:
        """Insert an order and move it to one of RESTING_STATES, or to an outcome."""
        order_id = await self.open(order)
        if state in (State.CANCELLED, State.FAILED):
            reason = Reason.CUSTOMER_CANCELLED if state is State.CANCELLED else Reason.DEADLINE
            await self.abort(order_id, reason)
            await self.repository.finish(order_id, state)
            return order_id
        if state.is_past(State.RECEIVED):
            assert await self.step(order_id, Step.RECEIVE)
        for reached, step in STEP_INTO.items():
            if reached.is_past(state):
                return order_id
            assert await self.step(order_id, step)
            if reached is State.IN_REVIEW and state.is_past(State.IN_REVIEW):
                assert (await self.repository.approve(order_id, "reviewer", request_id="approval")).accepted
        if state is State.COMPLETED:
            await self.repository.finish(order_id, state)
        return order_id

    async def carry_to_due(self, step: Step) -> str:
        """Insert an order and move it to where a forward step is due."""
        order_id = await self.carry_to(DUE_STATE[step])
        if step is Step.VALIDATE:
            assert await self.step(order_id, Step.RECEIVE)
        return order_id

    async def compensate(self, order_id: str) -> None:
        for step, detail in COMPENSATION_DETAILS.items():
            assert await self.step(order_id, step, **detail)

    async def abort(
        self, order_id: str, reason: Reason = Reason.CUSTOMER_CANCELLED, request_id: str | None = None
    ) -> RequestResult:
        request_id = request_id or uuid4().hex
        signal = "cancel_order" if reason is Reason.CUSTOMER_CANCELLED else None
        return await self.repository.abort(
            order_id, reason, "tester", "why", signal=signal, request_id=request_id
        )

    async def change_address(
        self,
        order_id: str,
        address: Address = OTHER_ADDRESS,
        request_id: str | None = None,
        address_version: int | None = None,
    ) -> RequestResult:
        return await self.repository.change_address(
            order_id,
            address,
            "tester",
            request_id=request_id or uuid4().hex,
            address_version=address_version,
        )

    async def row(self, order_id: str) -> Row:
        row = await self.pool.fetch_one("select * from orders where order_id = %(id)s", {"id": order_id})
        assert row is not None
        return row

    async def events(self, order_id: str, kind: str | None = None) -> list[Row]:
        return await self.pool.fetch_all(
            "select * from events where order_id = %(id)s"
            " and (%(kind)s::text is null or kind = %(kind)s) order by at",
            {"id": order_id, "kind": kind},
        )

    async def attempts(self, order_id: str, step: Step | None = None) -> list[tuple[str, int, str]]:
        """Return (step, attempt, outcome) of each closed attempt, oldest first."""
        return [
            (event["step"], event["attempt"], event["outcome"])
            for event in await self.events(order_id, "attempt")
            if step is None or event["step"] == step
        ]

    async def open_attempts(self, order_id: str) -> int:
        rows = await self.pool.fetch_all(
            "select from step_attempts where order_id = %(id)s", {"id": order_id}
        )
        return len(rows)

    async def payment(self, order_id: str) -> Row:
        row = await self.pool.fetch_one("select * from payments where order_id = %(id)s", {"id": order_id})
        assert row is not None
        return row

    async def shipment(self, order_id: str) -> Row | None:
        return await self.pool.fetch_one("select * from shipments where order_id = %(id)s", {"id": order_id})


async def provider_balance(pool: Database, payment_id: str) -> tuple[int, int]:
    """Return the cents that the simulated payment provider has charged and refunded for a payment id."""
    row = await pool.fetch_one(
        "select coalesce(sum(amount_cents) filter (where kind = 'charge'), 0)::int as charged,"
        " coalesce(sum(amount_cents) filter (where kind = 'refund'), 0)::int as refunded"
        " from provider.ledger where payment_id = %(payment_id)s",
        {"payment_id": payment_id},
    )
    assert row is not None
    return row["charged"], row["refunded"]


def times_increase(events: list[Row]) -> bool:
    return all(earlier["at"] < later["at"] for earlier, later in pairwise(events))


def ok(number: int, duration_ms: float = 0.5, **detail: Any) -> AttemptResult:
    return AttemptResult(number, AttemptOutcome.OK, duration_ms, detail)


def failed(
    number: int, outcome: AttemptOutcome = AttemptOutcome.ERROR, duration_ms: float = 0.5
) -> AttemptResult:
    return AttemptResult(number, outcome, duration_ms, {"error": "simulated error"})
