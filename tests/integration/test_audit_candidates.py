"""How the audit reads a long history: a first scan for candidates, with its own memory and query plan."""

import random
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from db import audit
from db.audit import EVENT_INVARIANTS, INVARIANTS, LEGAL_CHANGES, audit_database
from db.database import Database
from db.domain import State
from tests.orders import OrderDriver

PATH = list(State)[:7]
ORDERS = 400


def random_history(rng: random.Random) -> tuple[State, list[tuple[str, State, bool]]]:
    """Return an outcome, and events (kind, state, whether it ends before it starts) that are often nearly
    legal."""
    outcome = rng.choice([State.COMPLETED, State.CANCELLED, State.FAILED])
    states = PATH if outcome is State.COMPLETED else PATH[: rng.randint(1, 6)]
    events = [("accepted", State.RECEIVED, False)]
    events += [(rng.choice(["state", "attempt", "signal"]), state, False) for state in states for _ in "ab"]
    events.append(("outcome", outcome, False))
    for _ in range(rng.choice([0, 1, 1, 2])):
        at = rng.randrange(len(events))
        kind, state, _ = events[at]
        match rng.randrange(7):
            case 0:
                del events[at]
            case 1:
                events.insert(rng.randrange(len(events) + 1), events[at])
            case 2:
                events.append(events.pop(at))
            case 3:
                events[at] = (kind, rng.choice(list(State)), False)
            case 4:
                events[at] = (kind, state, True)
            case 5:
                events[at] = (rng.choice(["accepted", "outcome", "state"]), state, False)
            case _:
                events = [each for each in events if each[1] is not state]
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
        for number, (kind, state, is_backwards) in enumerate(events):
            at = begin + timedelta(milliseconds=number)
            await pool.execute(
                "insert into events (order_id, at, kind, state, started_at)"
                " values (%(id)s, %(at)s, %(kind)s, %(state)s, %(started_at)s)",
                {
                    "id": order_id,
                    "at": at,
                    "kind": kind,
                    "state": state.value,
                    "started_at": at + timedelta(milliseconds=1) if is_backwards else None,
                },
            )
    monkeypatch.setattr(audit, "MAX_VIOLATIONS", ORDERS * 20)
    report = await audit_database(pool)
    by_audit = {(each.invariant, each.order_id) for each in report.violations}
    all_orders = {
        "run_id": None,
        "limit": ORDERS * 20,
        "legal_changes": LEGAL_CHANGES,
        "candidates": order_ids,
    }
    without_candidates = {
        (number, row["order_id"])
        for number in EVENT_INVARIANTS
        for row in await pool.fetch_all(audit._SQL[f"invariant_{number}"], all_orders)
    }
    assert {each for each in by_audit if each[0] in EVENT_INVARIANTS} == without_candidates
    # The scan distinguishes: the candidates are neither none nor all.
    candidates = await pool.fetch_all(audit._SQL["candidates"], {"run_id": None})
    violating = {order_id for _, order_id in without_candidates}
    assert violating <= {row["order_id"] for row in candidates}
    assert ORDERS * 0.3 < len(violating) <= len(candidates) < ORDERS * 0.9


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
    parameters = {"run_id": "mine", "limit": 100, "legal_changes": LEGAL_CHANGES, "candidates": ["mine-1"]}
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
