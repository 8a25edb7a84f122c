"""The nine invariants as SQL over our books and the provider's ledger."""

import asyncio
from dataclasses import dataclass, field
from datetime import datetime

from db import queries
from db.database import Database, Row
from db.domain import State

_SQL = queries.load("audit.sql")

INVARIANTS: dict[int, str] = {
    1: "an acknowledged start has exactly one order",
    2: "every order has exactly one outcome, and its workflow agrees",
    3: "completed: one charge of the right amount, no refund, one dispatch to the right address",
    4: "cancelled or failed: net charge zero, one refund at most, nothing left on its way",
    5: "no charge without an order; our payments equal the provider's ledger",
    6: "an accepted cancellation or address holds",
    7: "events are a legal path in time order, none after the outcome",
    8: "the provider holds the money of the completed orders, no more and no less",
    9: "nothing is charged before approval or after a rejection",
}

MAX_VIOLATIONS = 100
"""Of each invariant; a broken system need not print every order."""

EVENT_INVARIANTS = (1, 2, 7)
"""About an order's own events: only asked of the orders that a first look at all events suspects."""

WORK_MEM_MB = 64
"""With less, the hash tables over a hundred thousand orders go through the disk."""

LEGAL_MOVES = [f"{a}>{b}" for a in State for b in State if a.may_become(b)]


@dataclass(frozen=True)
class Violation:
    """One order that breaks one invariant, and the rows that show it."""

    invariant: int
    order_id: str
    finding: str
    witness: Row


@dataclass(frozen=True)
class DatabaseAudit:
    """`judged` orders have their outcome; `open_orders` do not, and are not judged, `overdue` of them past
    their deadline. That was so at `looked_at`, by PostgreSQL's clock; `last_finished_at` is when the last of
    the judged had its outcome.

    `since` is when the first of all these was accepted, `run_started_at` when the run began; each is None
    where the books do not know. `without_events` of the judged were accepted before `events_since` (None
    while nothing was dropped): of them the invariants that events tell (1, 2, 6, 7, 9) are not asked.
    """

    judged: int
    late: int
    open_orders: list[str]
    overdue: int
    looked_at: datetime
    last_finished_at: datetime | None
    since: datetime | None
    run_started_at: datetime | None
    without_events: int = 0
    events_since: datetime | None = None
    violations: list[Violation] = field(default_factory=list)


async def audit_database(database: Database, run_id: str | None = None) -> DatabaseAudit:
    """Checks everything that PostgreSQL alone can show, for one run or for all. Raises DatabaseUnavailable."""
    scope = await database.fetch_one(_SQL["scope"], {"run_id": run_id})
    assert scope is not None, "an aggregate gives a row"
    # Two at a time: enough to use two cores, and not all of the pool.
    gate = asyncio.Semaphore(2)

    async def ask(name: str, suspects: list[str] | None = None) -> list[Row]:
        parameters = {
            "run_id": run_id,
            "limit": MAX_VIOLATIONS,
            "legal_moves": LEGAL_MOVES,
            "suspects": suspects,
        }
        async with gate:
            return await database.fetch_all(_SQL[name], parameters, work_mem_mb=WORK_MEM_MB)

    async def check(number: int, suspects: list[str] | None = None) -> list[Violation]:
        rows = await ask("invariant_" + str(number), suspects)
        return [Violation(number, row["order_id"], row["finding"], row["witness"]) for row in rows]

    async def check_events() -> list[Violation]:
        suspects = [row["order_id"] for row in await ask("suspects")]
        return [each for number in EVENT_INVARIANTS for each in await check(number, suspects)]

    others = [check(number) for number in INVARIANTS if number not in EVENT_INVARIANTS]
    found = await asyncio.gather(check_events(), *others)
    return DatabaseAudit(
        judged=scope["judged"],
        late=scope["late"],
        open_orders=scope["open_orders"],
        overdue=scope["overdue"],
        looked_at=scope["looked_at"],
        last_finished_at=scope["last_finished_at"],
        since=scope["since"],
        run_started_at=scope["run_started_at"],
        without_events=scope["without_events"],
        events_since=scope["events_since"],
        violations=[violation for each in found for violation in each],
    )


async def known_orders(database: Database, order_ids: list[str]) -> dict[str, Row]:
    """State, reason, workflow run and end of those of `order_ids` that the books know."""
    rows = await database.fetch_all(_SQL["known_orders"], {"order_ids": order_ids})
    return {row["order_id"]: row for row in rows}
