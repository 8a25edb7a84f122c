"""Retention deletes old events without blocking writers, and deletes nothing else."""

import asyncio
import json
import os
from contextlib import asynccontextmanager
from datetime import timedelta

import psycopg
import pytest

from db.database import Database
from db.domain import State
from db.maintenance import retention
from db.maintenance.audit import audit_database
from db.maintenance.retention import RetentionRejected, delete_expired
from db.orders import OrderRepository
from orchestrator.worker.event_retention import EventRetention
from tests.command_line import CommandLine
from tests.orders import TEMPORAL, OrderDriver

KEEP = timedelta(days=90)
LONGEST_WAIT = "5s"
"""A writer that waits longer for a lock fails."""

AGE = """
    alter table orders disable trigger orders_reject_illegal_transition;
    with aged as (
        update orders set accepted_at = accepted_at - {age}, last_event_at = last_event_at - {age},
            requested_at = requested_at - {age}, deadline_at = deadline_at - {age},
            finished_at = finished_at - {age}
        where order_id = '{order_id}' returning order_id
    )
    update events e set at = at - {age}, started_at = started_at - {age}
    from aged where e.order_id = aged.order_id;
    alter table orders enable trigger orders_reject_illegal_transition;
"""


@pytest.fixture
def url(postgres):
    with postgres.fresh_database() as url:
        yield url


@asynccontextmanager
async def order_driver(url):
    async with Database(url, max_size=8) as pool:
        yield OrderDriver(OrderRepository(pool, "worker-1", TEMPORAL), pool)


def execute(url, statement):
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(statement)
        return cursor.fetchall() if cursor.description else []


async def event_violations(pool):
    """Return the violations about events; these orders have no provider records."""
    found = (await audit_database(pool)).violations
    return [violation for violation in found if violation.invariant in (1, 2, 6, 7, 9)]


def age(url, order_id, days):
    """Move an order and its events back by a number of days."""
    execute(url, AGE.format(age=f"interval '{24 * days} hours'", order_id=order_id))
    return order_id


def orders_with_events(url):
    return {row[0] for row in execute(url, "select distinct order_id from events")}


async def test_old_events_are_deleted_and_all_other_rows_stay(url):
    async with order_driver(url) as driver:
        old = age(url, await driver.carry_to(State.COMPLETED), 100)
        young = age(url, await driver.carry_to(State.CANCELLED), 80)
        kept_rows = (
            "select (select count(*) from orders), (select sum(orders) from latency_rollup),"
            " (select count(*) from provider.ledger), (select count(*) from payments)"
        )
        before = execute(url, kept_rows)
        planned = await delete_expired(driver.pool, KEEP, dry_run=True)
        assert (planned.orders, planned.events) == (1, 0)
        assert orders_with_events(url) == {old, young}

        report = await delete_expired(driver.pool, KEEP)
        assert report.orders == 1
        assert report.events > 5
        assert orders_with_events(url) == {young}
        assert execute(url, kept_rows) == before
        assert (await delete_expired(driver.pool, KEEP)).orders == 0

        # The audit reports how many orders have no events, and no violation for them.
        audit = await audit_database(driver.pool)
        assert (audit.finished, audit.without_events) == (2, 1)
        assert await event_violations(driver.pool) == []
        assert audit.events_since >= report.cutoff


async def test_the_audit_reports_missing_events_that_retention_did_not_delete(url):
    async with order_driver(url) as driver:
        age(url, await driver.carry_to(State.COMPLETED), 100)
        young = await driver.carry_to(State.COMPLETED)
        await delete_expired(driver.pool, KEEP)
        execute(url, f"delete from events where order_id = '{young}'")
        found = {(v.invariant, v.order_id) for v in (await audit_database(driver.pool)).violations}
        assert {(1, young), (2, young)} <= found


async def test_events_of_an_open_order_and_all_later_ones_stay(url):
    async with order_driver(url) as driver:
        age(url, await driver.carry_to(State.COMPLETED), 120)
        still_open = age(url, await driver.carry_to(State.IN_REVIEW), 110)
        later = age(url, await driver.carry_to(State.COMPLETED), 100)
        report = await delete_expired(driver.pool, KEEP)
        assert report.orders == 1
        assert report.cutoff == report.oldest_open_at
        assert orders_with_events(url) == {still_open, later}


async def test_an_interrupted_deletion_is_continued_and_hidden_from_the_audit(url, monkeypatch):
    monkeypatch.setattr(retention, "BATCH_ORDERS", 2)
    async with order_driver(url) as driver:
        orders = [age(url, await driver.carry_to(State.COMPLETED), days) for days in range(120, 110, -1)]
        statement = retention._SQL["delete_batch"]
        cutoff = (await delete_expired(driver.pool, KEEP, dry_run=True)).cutoff
        assert await driver.pool.fetch_one(statement, {"cutoff": cutoff, "orders": 2})
        remaining = orders_with_events(url)
        assert remaining == set(orders[2:])
        assert await event_violations(driver.pool) == []
        assert (await delete_expired(driver.pool, KEEP)).orders == len(remaining)
        assert orders_with_events(url) == set()


async def test_concurrent_deletions_delete_each_event_once_and_no_writer_waits(url, monkeypatch):
    """Writers have a short lock timeout, and none fails; a reader blocks nothing."""
    monkeypatch.setattr(retention, "BATCH_ORDERS", 3)
    stop = asyncio.Event()
    impatient = psycopg.conninfo.make_conninfo(url, options=f"-c lock_timeout={LONGEST_WAIT}")

    async def write(driver):
        written = 0
        while not stop.is_set():
            await driver.carry_to(State.COMPLETED)
            written += 1
        return written

    async with order_driver(url) as deleter, order_driver(impatient) as driver:
        days = range(100, 130)
        for days_ago in days:
            age(url, await driver.carry_to(State.CANCELLED), days_ago)
        (expired,) = execute(url, "select count(*) from events")[0]
        writers = [asyncio.create_task(write(driver)) for _ in range(4)]
        with psycopg.connect(url) as reader:
            reader.execute("select count(*) from events")
            reports = await asyncio.gather(*(delete_expired(deleter.pool, KEEP) for _ in range(3)))
        stop.set()
        written = await asyncio.gather(*writers)
        assert min(written) > 0
        assert sum(report.events for report in reports) == expired
        assert sum(report.orders for report in reports) == len(days)
        assert await event_violations(driver.pool) == []


async def test_a_user_without_the_privilege_deletes_nothing(url):
    async with order_driver(url) as driver:
        old = age(url, await driver.carry_to(State.COMPLETED), 100)
    execute(url, "create role impostor login; grant usage on schema public to impostor")
    try:
        execute(url, "grant select, insert on all tables in schema public to impostor")
        async with Database(psycopg.conninfo.make_conninfo(url, user="impostor")) as theirs:
            with pytest.raises(RetentionRejected):
                await delete_expired(theirs, KEEP)
            assert await EventRetention(theirs, KEEP).run_once()
        assert old in orders_with_events(url)
    finally:
        execute(url, "drop owned by impostor; drop role impostor")


async def test_the_worker_deletes_expired_events(url):
    async with order_driver(url) as driver:
        age(url, await driver.carry_to(State.COMPLETED), 100)
        assert await EventRetention(driver.pool, KEEP).run_once()
        assert orders_with_events(url) == set()


async def test_the_command_counts_and_deletes(url):
    async with order_driver(url) as driver:
        old = age(url, await driver.carry_to(State.COMPLETED), 100)
    commands = CommandLine({**os.environ, "DATABASE_URL": url})
    code, output = await commands.run("retention", "--keep", "90d", "--dry-run")
    assert (code, "Would delete the events of 1 orders" in output) == (0, True), output
    assert orders_with_events(url) == {old}
    code, output = await commands.run("retention", "--keep", "90d", "--json")
    assert json.loads(output)["orders"] == 1
    code, output = await commands.run("retention", "--keep", "90d")
    assert (code, output.count("\n")) == (0, 1)
    assert "Deleted the events of 0 orders" in output
    for wrong in (["--keep", "0d"], ["--keep", "soon"], []):
        code, output = await commands.run("retention", *wrong)
        assert (code, output.count("\n")) == (2, 1), output
