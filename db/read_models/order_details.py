"""Read models: what can be shown of orders, their events and their times. Nothing here writes.

Every function raises DatabaseUnavailable when PostgreSQL does not answer. Times are aware; all durations are
integer milliseconds unless a name says otherwise.
"""

from collections import Counter
from collections.abc import AsyncGenerator, Collection
from dataclasses import dataclass
from datetime import datetime

from db import queries
from db.database import Database, Row
from db.domain import COMPENSATIONS, AttemptOutcome, Reason, State, Step

_SQL = queries.load("order_details.sql")

PERCENTILES = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99, "max": 1.0}

PARTS = (
    "end_to_end", "completion", "ingress", "receive", "validate", "review", "charge", "prepare", "dispatch",
    "compensate", "waiting",
)  # fmt: skip
"""The measured parts of an order's time: the two totals, then what they are the sum of."""

_DONE_ONCE_AT: dict[Step, State] = {
    Step.VALIDATE: State.VALIDATED,
    Step.REVIEW: State.APPROVED,
    Step.CHARGE: State.CHARGED,
    Step.PREPARE: State.PREPARED,
    Step.DISPATCH: State.DISPATCHED,
}


@dataclass(frozen=True)
class StartCheck:
    """What stands in the way of a start: a fingerprint under its order id, an owner of its payment id."""

    fingerprint: str | None
    payment_owner: str | None


@dataclass(frozen=True)
class OrderSummary:
    """One order, in brief. `reason` is why it was turned back; `within_limit` is None until the outcome."""

    order_id: str
    run_id: str | None
    state: State
    current_step: Step | None
    reason: Reason | None
    amount_cents: int
    accepted_at: datetime
    last_event_at: datetime
    deadline_at: datetime
    completion_ms: int | None
    within_limit: bool | None


@dataclass(frozen=True)
class FailedAttempt:
    step: Step
    attempt: int
    outcome: AttemptOutcome
    error: str
    at: datetime


@dataclass(frozen=True)
class OrderReading:
    """One order as it stands.

    `retries` counts the failed attempts of each step that had any; `recent_failures` are the last ten,
    oldest first; `abort_message` is what was said when the order was turned back.
    """

    summary: OrderSummary
    completed_steps: list[Step]
    retries: dict[Step, int]
    recent_failures: list[FailedAttempt]
    abort_message: str
    tracking: str | None


@dataclass(frozen=True)
class Event:
    at: datetime
    kind: str
    state: State
    step: str | None
    attempt: int | None
    outcome: str | None
    started_at: datetime | None
    duration_ms: float | None
    worker: str | None
    detail: Row | None


@dataclass(frozen=True)
class PageKey:
    """The last order of a page; the next page begins after it."""

    accepted_at: datetime
    order_id: str


@dataclass(frozen=True)
class LatencyFilter:
    """Which orders: those of a run, accepted at or after `since` and before `until`. None: no bound."""

    run_id: str | None = None
    since: datetime | None = None
    until: datetime | None = None

    def parameters(self) -> Row:
        return {"run_id": self.run_id, "since": self.since, "until": self.until}


@dataclass(frozen=True)
class Spread:
    """How one duration is distributed over the finished orders, in ms; keys as in PERCENTILES."""

    mean: float
    percentiles: dict[str, int]


@dataclass(frozen=True)
class LatencySummary:
    """Exact counts and percentiles. `late` finished past their deadline, `overdue` are past it and open.

    `parts` has `completion`, `end_to_end` and each column of the time split; empty without a finished
    order.
    """

    finished: int
    late: int
    open: int
    overdue: int
    outcomes: dict[State, int]
    parts: dict[str, Spread]


@dataclass(frozen=True)
class Counters:
    """Orders and outside calls since the beginning of the books.

    `finished_upto` has orders by the upper edge in ms of their completion time's bucket.
    """

    finished: dict[State, int]
    late: int
    attempts: dict[str, int]
    finished_upto: dict[int, int]
    completion_ms: int


@dataclass(frozen=True)
class OpenOrders:
    """Orders without an outcome. `overdue` are past their deadline; `compensating` are turned back and not
    wholly undone yet; `least_seconds_left` is until the nearest deadline, None when there is no order."""

    orders: int
    overdue: int
    compensating: int
    compensating_overdue: int
    least_seconds_left: float | None


@dataclass(frozen=True)
class Pressure:
    """How much work is under way, and how it fares.

    `in_flight` leaves out the orders that wait for a person; `taken` are those of the given orders that the
    books have; `finished` counts the orders of the last seconds, and `waiting_ms` is the time that the
    middle one of them spent in nobody's hands (None without any).
    """

    in_flight: int
    taken: frozenset[str]
    finished: int
    waiting_ms: int | None


async def ping(database: Database) -> None:
    await database.fetch_one(_SQL["ping"])


async def start_check(database: Database, order_id: str, payment_id: str) -> StartCheck:
    row = await database.fetch_one(_SQL["start_check"], {"order_id": order_id, "payment_id": payment_id})
    assert row is not None, "the statement joins onto a constant row"
    return StartCheck(**row)


async def order(database: Database, order_id: str) -> OrderReading | None:
    """One order as it stands, or None when the books do not know it."""
    row = await database.fetch_one(_SQL["order_status"], {"order_id": order_id})
    if row is None:
        return None
    return OrderReading(
        summary=_summary(row),
        completed_steps=_completed_steps(row),
        retries={step: row["retries"][step] for step in Step if step in row["retries"]},
        recent_failures=[
            FailedAttempt(
                step=Step(failure["step"]),
                attempt=failure["attempt"],
                outcome=AttemptOutcome(failure["outcome"]),
                error=failure["error"],
                at=datetime.fromisoformat(failure["at"]),
            )
            for failure in row["failures"]
        ],
        abort_message=row["message"] or "",
        tracking=row["tracking"],
    )


async def history(database: Database, order_id: str) -> list[Event] | None:
    """The events of an order, oldest first, or None when the books do not know it."""
    rows = await database.fetch_all(_SQL["order_history"], {"order_id": order_id})
    if not rows:
        return None
    return [Event(**row | {"state": State(row["state"])}) for row in rows if row["at"] is not None]


async def orders(
    database: Database,
    *,
    state: State | None = None,
    run_id: str | None = None,
    after: PageKey | None = None,
    limit: int = 50,
) -> list[OrderSummary]:
    """Orders, newest first."""
    rows = await database.fetch_all(
        _SQL["list_orders"],
        {
            "state": state.value if state else None,
            "run_id": run_id,
            "before_at": after.accepted_at if after else None,
            "before_id": after.order_id if after else None,
            "limit": limit,
        },
    )
    return [_summary(row) for row in rows]


async def finished_among(database: Database, order_ids: Collection[str]) -> set[str]:
    """Those of the given orders that have their outcome."""
    rows = await database.fetch_all(_SQL["finished_among"], {"order_ids": list(order_ids)})
    return {row["order_id"] for row in rows}


async def pressure(database: Database, order_ids: Collection[str], seconds: float) -> Pressure:
    """How things stand, with the orders that finished in the last `seconds`."""
    row = await database.fetch_one(_SQL["pressure"], {"order_ids": list(order_ids), "seconds": seconds})
    assert row is not None, "an aggregate gives a row"
    return Pressure(row["in_flight"], frozenset(row["taken"]), row["finished"], row["waiting_ms"])


def latency_rows(database: Database, chosen: LatencyFilter) -> AsyncGenerator[Row, None]:
    """One row for each finished order, oldest first, streamed: memory does not grow with the answer."""
    return database.stream(_SQL["latency_rows"], chosen.parameters(), batch=500)


async def latency_summary(database: Database, chosen: LatencyFilter) -> LatencySummary:
    row = await database.fetch_one(
        _SQL["latency_summary"], chosen.parameters() | {"shares": list(PERCENTILES.values())}
    )
    assert row is not None, "an aggregate gives a row"
    return LatencySummary(
        finished=row["finished"],
        late=row["late"],
        open=row["open"],
        overdue=row["overdue"],
        outcomes={state: row[state.value] for state in (State.COMPLETED, State.CANCELLED, State.FAILED)},
        parts={part: _spread(row["parts"][part]) for part in PARTS} if row["parts"] else {},
    )


async def counters(database: Database) -> Counters:
    """Totals since the beginning; quick at any number of orders."""
    finished: Counter[State] = Counter()
    attempts: Counter[str] = Counter()
    finished_upto: Counter[int] = Counter()
    late = completion_ms = 0
    for row in await database.fetch_all(_SQL["counters"]):
        finished[State(row["outcome"])] += row["orders"]
        finished_upto[row["upto_ms"]] += row["orders"]
        completion_ms += row["completion_ms"]
        late += row["late"]
        attempts["ok"] += row["attempts"] - row["failed_attempts"]
        attempts["timeout"] += row["timed_out_attempts"]
        attempts["error"] += row["failed_attempts"] - row["timed_out_attempts"]
    return Counters(dict(finished), late, dict(attempts), dict(finished_upto), completion_ms)


async def open_orders(database: Database) -> OpenOrders:
    """The orders without an outcome; quick at any number of finished ones."""
    row = await database.fetch_one(_SQL["open_orders"])
    assert row is not None, "an aggregate gives a row"
    return OpenOrders(**row)


def _summary(row: Row) -> OrderSummary:
    return OrderSummary(
        order_id=row["order_id"],
        run_id=row["run_id"],
        state=State(row["state"]),
        current_step=Step(row["current_step"]) if row["current_step"] else None,
        reason=Reason(row["abort_reason"]) if row["abort_reason"] else None,
        amount_cents=row["amount_cents"],
        accepted_at=row["accepted_at"],
        last_event_at=row["last_event_at"],
        deadline_at=row["deadline_at"],
        completion_ms=row["completion_ms"],
        within_limit=row["within_limit"],
    )


def _spread(measured: Row) -> Spread:
    return Spread(float(measured["mean"]), dict(zip(PERCENTILES, measured["at"], strict=True)))


def _completed_steps(row: Row) -> list[Step]:
    """The steps that took effect. A forward call that worked after the order was turned back did not."""
    furthest = State(row["furthest_state"] or State.RECEIVED)
    done = [Step.RECEIVE] if Step.RECEIVE in row["done_steps"] or furthest is not State.RECEIVED else []
    done += [step for step, state in _DONE_ONCE_AT.items() if furthest is state or furthest.is_past(state)]
    done += [step for step in COMPENSATIONS if step in row["done_steps"]]
    return [*done, Step.FINISH] if State(row["state"]).is_terminal else done
