"""The nine invariants, as SQL over the order tables and the provider ledger."""

import asyncio
from dataclasses import dataclass, field
from datetime import datetime

from db import queries
from db.database import Database, Row
from db.domain import GATEWAY_STEPS, TemporalNamespace
from db.transitions import STATE_MACHINE

_SQL = queries.load("audit.sql")

INVARIANTS: dict[int, str] = {
    1: "an acknowledged start has exactly one order",
    2: "every order has exactly one outcome, and its workflow agrees",
    3: "completed: one charge of the right amount, no refund, one dispatch to the right address",
    4: "cancelled or failed: net charge zero, at most one refund, every dispatch recalled",
    5: "no charge without an order; our payments equal the provider's ledger",
    6: "an accepted cancellation or address holds",
    7: "events are a legal path in time order, each attempt once, none after the outcome",
    8: "charges less refunds at the provider equal the sum of the completed orders",
    9: "nothing is charged before approval or after a rejection",
}

MAX_VIOLATIONS = 100
"""Maximum number of violations per invariant."""

EVENT_INVARIANTS = (1, 2, 7)
"""Invariants about an order's own events. They read only the candidates of a first scan."""

WORK_MEM_MB = 64
"""With less, the hash tables over 100,000 orders spill to disk."""

PARAMETERS: Row = {
    "legal_changes": [f"{before}>{after}" for before, after in STATE_MACHINE.event_changes()],
    "gateway_steps": [step.value for step in GATEWAY_STEPS],
}
"""Statement parameters that follow from the state machine."""


@dataclass(frozen=True)
class Violation:
    """One order that violates one invariant, and the rows that show it."""

    invariant: int
    order_id: str
    finding: str
    evidence: Row


@dataclass(frozen=True)
class DatabaseAudit:
    """`finished` orders have their outcome. `open_orders` do not and are not checked; `overdue` of them are
    past their limit and count as `late`. All as of `read_at`, by PostgreSQL's clock.

    The workflows of `finished_elsewhere` are in another Temporal namespace than the audited one. `since` is
    when the first of these orders was accepted, `last_finished_at` when the last one finished, and
    `run_started_at` when the run started; None if there is none. `without_events` of the finished orders were
    accepted before `events_since` (None if no events were deleted), so the invariants about events skip them.
    """

    finished: int
    finished_elsewhere: int
    late: int
    open_orders: list[str]
    overdue: int
    read_at: datetime
    last_finished_at: datetime | None
    since: datetime | None
    run_started_at: datetime | None
    without_events: int = 0
    events_since: datetime | None = None
    violations: list[Violation] = field(default_factory=list)


async def audit_database(
    database: Database, run_id: str | None = None, temporal: TemporalNamespace | None = None
) -> DatabaseAudit:
    """Check every invariant that PostgreSQL alone can show, for one run or for all orders.

    `temporal` is the namespace whose workflows the caller compares; None if it compares none.
    """
    namespace = {"cluster_id": temporal and temporal.cluster_id, "namespace": temporal and temporal.name}
    scope = await database.fetch_one(_SQL["scope"], {"run_id": run_id} | namespace)
    assert scope is not None, "an aggregate returns a row"
    # Two queries at a time use two cores and leave connections of the pool for others.
    slots = asyncio.Semaphore(2)

    async def query(name: str, candidates: list[str] | None = None) -> list[Row]:
        parameters = PARAMETERS | {"run_id": run_id, "limit": MAX_VIOLATIONS, "candidates": candidates}
        async with slots:
            return await database.fetch_all(_SQL[name], parameters, work_mem_mb=WORK_MEM_MB)

    async def check(number: int, candidates: list[str] | None = None) -> list[Violation]:
        rows = await query(f"invariant_{number}", candidates)
        return [Violation(number, row["order_id"], row["finding"], row["evidence"]) for row in rows]

    async def check_events() -> list[Violation]:
        candidates = [row["order_id"] for row in await query("candidates")]
        return [each for number in EVENT_INVARIANTS for each in await check(number, candidates)]

    others = [check(number) for number in INVARIANTS if number not in EVENT_INVARIANTS]
    violations = await asyncio.gather(check_events(), *others)
    return DatabaseAudit(**scope, violations=[violation for each in violations for violation in each])


async def first_accepted(database: Database, run_id: str | None) -> datetime | None:
    """Return when the first order of a run, or of all orders, was accepted; None without orders."""
    row = await database.fetch_one(_SQL["first_accepted"], {"run_id": run_id})
    return None if row is None else row["accepted_at"]


async def known_orders(database: Database, order_ids: list[str]) -> dict[str, Row]:
    """Return state, reason, workflow run and end of those of `order_ids` that exist, by order id."""
    rows = await database.fetch_all(_SQL["known_orders"], {"order_ids": order_ids})
    return {row["order_id"]: row for row in rows}
