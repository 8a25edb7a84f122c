"""How the audit reads a long history: by a first look that names suspects, and with a plan of its own."""

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from db import audit
from db.audit import EVENT_INVARIANTS, INVARIANTS, LEGAL_MOVES, audit_database
from db.database import Database
from db.domain import State
from tests.orders import OrderDriver

PATH = list(State)[:7]
ORDERS = 400


def life(luck: random.Random) -> tuple[State, list[tuple[str, State, bool]]]:
    """An outcome, and events (kind, state, whether it ends before it starts) that are often nearly right."""
    outcome = luck.choice([State.COMPLETED, State.CANCELLED, State.FAILED])
    walked = PATH if outcome is State.COMPLETED else PATH[: luck.randint(1, 6)]
    events = [("accepted", State.RECEIVED, False)]
    events += [(luck.choice(["state", "attempt", "signal"]), state, False) for state in walked for _ in "ab"]
    events.append(("outcome", outcome, False))
    for _ in range(luck.choice([0, 1, 1, 2])):
        at = luck.randrange(len(events))
        kind, state, _ = events[at]
        match luck.randrange(7):
            case 0:
                del events[at]
            case 1:
                events.insert(luck.randrange(len(events) + 1), events[at])
            case 2:
                events.append(events.pop(at))
            case 3:
                events[at] = (kind, luck.choice(list(State)), False)
            case 4:
                events[at] = (kind, state, True)
            case 5:
                events[at] = (luck.choice(["accepted", "outcome", "state"]), state, False)
            case _:
                events = [each for each in events if each[1] is not state]
        if not events:
            break
    return outcome, events


async def test_nobody_who_breaks_an_invariant_about_events_escapes_the_first_look(
    pool: Database, repository, monkeypatch
) -> None:
    driver = OrderDriver(repository, pool)
    luck = random.Random(7)
    order_ids = []
    for _ in range(ORDERS):
        outcome, events = life(luck)
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
    told = await audit_database(pool)
    by_audit = {(each.invariant, each.order_id) for each in told.violations}
    everybody = {"run_id": None, "limit": ORDERS * 20, "legal_moves": LEGAL_MOVES, "suspects": order_ids}
    by_walking = {
        (number, row["order_id"])
        for number in EVENT_INVARIANTS
        for row in await pool.fetch_all(audit._SQL[f"invariant_{number}"], everybody)
    }
    assert {each for each in by_audit if each[0] in EVENT_INVARIANTS} == by_walking
    # Neither nobody nor everybody: the look tells them apart.
    suspects = await pool.fetch_all(audit._SQL["suspects"], {"run_id": None})
    guilty = {order_id for _, order_id in by_walking}
    assert guilty <= {row["order_id"] for row in suspects}
    assert ORDERS * 0.3 < len(guilty) <= len(suspects) < ORDERS * 0.9


async def test_a_report_has_memory_of_its_own_and_a_plan_for_its_parameters(pool: Database) -> None:
    settings = (
        "select current_setting('work_mem') as memory, current_setting('plan_cache_mode') as plan,"
        " current_setting('random_page_cost') as page"
    )
    report = {"memory": "64MB", "plan": "force_custom_plan", "page": "1.1"}
    usual = await pool.fetch_all(settings)
    assert usual != [report]
    assert await pool.fetch_all(settings, work_mem_mb=64) == [report]
    assert await pool.fetch_all(settings) == usual


@pytest.mark.parametrize("name", ["suspects", *(f"invariant_{number}" for number in INVARIANTS)])
def test_of_one_run_only_its_own_rows_are_read(order_database_url: str, name: str) -> None:
    """However much is stored: every table is entered by an index, with a condition."""
    asked = {"run_id": "mine", "limit": 100, "legal_moves": LEGAL_MOVES, "suspects": ["mine-1"]}
    with psycopg.connect(order_database_url) as connection, psycopg.ClientCursor(connection) as cursor:
        # In books as small as these all would be read at once.
        connection.execute("set local enable_seqscan = off")
        plan = cursor.execute("explain (format json) " + audit._SQL[name], asked).fetchall()[0][0]
    looks = [
        node for node in nodes(plan[0]["Plan"]) if "Index Name" in node or "Seq Scan" in node["Node Type"]
    ]
    assert looks
    assert [node for node in looks if "Index Cond" not in node] == []


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from nodes(child)
