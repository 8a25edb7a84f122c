"""How the audit reads a long history: a first scan for candidates, with its own memory and query plan."""

import itertools
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from db.database import Database
from db.domain import State
from db.maintenance import audit
from db.maintenance.audit import EVENT_INVARIANTS, INVARIANTS, PARAMETERS, audit_database
from tests.orders import OrderDriver, new_order

PATH = list(State)[:7]
ORDERS = 400


@dataclass(frozen=True)
class Event:
    """`attempt` is the number of an attempt of `receive`; `is_backwards`: it ends before it starts."""

    kind: str
    state: State
    attempt: int | None = None
    is_backwards: bool = False


def random_history(rng: random.Random) -> tuple[State, list[Event]]:
    """Return an outcome, and events that are often nearly legal."""
    outcome = rng.choice([State.COMPLETED, State.CANCELLED, State.FAILED])
    states = PATH if outcome is State.COMPLETED else PATH[: rng.randint(1, 6)]
    events = [Event("accepted", State.RECEIVED)]
    attempts = itertools.count(1)
    for state in states:
        for _ in range(2):
            kind = rng.choice(["state", "attempt", "signal"])
            events.append(Event(kind, state, next(attempts) if kind == "attempt" else None))
    events.append(Event("outcome", outcome))
    for _ in range(rng.choice([0, 1, 1, 2])):
        at = rng.randrange(len(events))
        event = events[at]
        match rng.randrange(7):
            case 0:
                del events[at]
            case 1:
                events.insert(rng.randrange(len(events) + 1), event)
            case 2:
                events.append(events.pop(at))
            case 3:
                events[at] = replace(event, state=rng.choice(list(State)))
            case 4:
                events[at] = replace(event, is_backwards=True)
            case 5:
                events[at] = Event(rng.choice(["accepted", "outcome", "state"]), event.state)
            case _:
                events = [each for each in events if each.state is not event.state]
        if not events:
            break
    return outcome, events


async def test_every_order_that_violates_an_invariant_about_events_is_a_candidate(
    pool: Database, repository, monkeypatch
) -> None:
    driver = OrderDriver(repository, pool)
    rng = random.Random(7)
    order_ids = []
    for _ in range(ORDERS):
        outcome, events = random_history(rng)
        order_id = await driver.carry_to(outcome)
        order_ids.append(order_id)
        begin = datetime.now(UTC)
        await pool.execute("delete from events where order_id = %(id)s", {"id": order_id})
        for number, event in enumerate(events):
            at = begin + timedelta(milliseconds=number)
            await insert_event(pool, order_id, at, event)
    monkeypatch.setattr(audit, "MAX_VIOLATIONS", ORDERS * 20)
    report = await audit_database(pool)
    by_audit = {(each.invariant, each.order_id) for each in report.violations}
    all_orders = PARAMETERS | {"run_id": None, "limit": ORDERS * 20, "candidates": order_ids}
    without_candidates = {
        (number, row["order_id"])
        for number in EVENT_INVARIANTS
        for row in await pool.fetch_all(audit._SQL[f"invariant_{number}"], all_orders)
    }
    assert {each for each in by_audit if each[0] in EVENT_INVARIANTS} == without_candidates
    # The scan distinguishes: the candidates are neither none nor all.
    candidates = await pool.fetch_all(audit._SQL["candidates"], PARAMETERS | {"run_id": None})
    violating = {order_id for _, order_id in without_candidates}
    assert violating <= {row["order_id"] for row in candidates}
    assert ORDERS * 0.3 < len(violating) <= len(candidates) < ORDERS * 0.9


async def insert_event(pool: Database, order_id: str, at: datetime, event: Event) -> None:
    await pool.execute(
        "insert into events (order_id, at, kind, state, step, attempt, started_at)"
        " values (%(id)s, %(at)s, %(kind)s, %(state)s, %(step)s, %(attempt)s, %(started_at)s)",
        {
            "id": order_id,
            "at": at,
            "kind": event.kind,
            "state": event.state.value,
            "step": None if event.attempt is None else "receive",
            "attempt": event.attempt,
            "started_at": at + timedelta(milliseconds=1) if event.is_backwards else None,
        },
    )


@pytest.mark.parametrize(
    ("attempts", "finding"),
    [
        ([1, 1], "attempt 1 of receive follows attempt 1"),
        ([2], "attempt 2 of receive follows no attempt"),
        ([1, 3], "attempt 3 of receive follows attempt 1"),
        ([1, 2, 2, 3], "attempt 2 of receive follows attempt 2"),
        ([*range(1, 12), 11], "attempt 11 of receive follows attempt 11"),
        ([*range(1, 12)], None),
    ],
)
async def test_the_events_have_each_attempt_once(
    pool: Database, repository, attempts: list[int], finding: str | None
) -> None:
    run_id = f"attempts-{uuid4().hex[:8]}"
    order_id = await OrderDriver(repository, pool).carry_to(State.COMPLETED, new_order(run_id=run_id))
    parameters = {"id": order_id}
    await pool.execute("delete from events where order_id = %(id)s and step = 'receive'", parameters)
    (accepted,) = await pool.fetch_all(
        "select at from events where order_id = %(id)s and kind = 'accepted'", parameters
    )
    for number, attempt in enumerate(attempts, start=1):
        at = accepted["at"] + timedelta(microseconds=number)
        await insert_event(pool, order_id, at, Event("attempt", State.RECEIVED, attempt))
    found = [
        (each.invariant, each.finding)
        for each in (await audit_database(pool, run_id)).violations
        # The driver calls no gateway.
        if each.invariant in EVENT_INVARIANTS
    ]
    assert found == ([] if finding is None else [(7, finding)])


def test_the_candidates_query_names_every_state_of_the_path_in_order() -> None:
    named = re.findall(r"e\.state = '(\w+)'\) as first_", audit._SQL["candidates"])
    assert named == [state.value for state in PATH]


async def test_a_report_sets_its_own_work_mem_and_planner_settings(pool: Database) -> None:
    settings = (
        "select current_setting('work_mem') as memory, current_setting('plan_cache_mode') as plan,"
        " current_setting('random_page_cost') as page"
    )
    report = {"memory": "64MB", "plan": "force_custom_plan", "page": "1.1"}
    usual = await pool.fetch_all(settings)
    assert usual != [report]
    assert await pool.fetch_all(settings, work_mem_mb=64) == [report]
    assert await pool.fetch_all(settings) == usual


@pytest.mark.parametrize("name", ["candidates", *(f"invariant_{number}" for number in INVARIANTS)])
def test_the_audit_of_one_run_reads_only_rows_of_that_run(order_database_url: str, name: str) -> None:
    """Every table is read through an index with a condition, so the cost does not depend on other runs."""
    parameters = PARAMETERS | {"run_id": "mine", "limit": 100, "candidates": ["mine-1"]}
    with psycopg.connect(order_database_url) as connection, psycopg.ClientCursor(connection) as cursor:
        # Tables as small as these would be read sequentially.
        connection.execute("set local enable_seqscan = off")
        plan = cursor.execute("explain (format json) " + audit._SQL[name], parameters).fetchall()[0][0]
    scans = [
        node for node in nodes(plan[0]["Plan"]) if "Index Name" in node or "Seq Scan" in node["Node Type"]
    ]
    assert scans
    assert [node for node in scans if "Index Cond" not in node] == []


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from nodes(child)
