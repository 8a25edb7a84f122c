"""Retention drops old events without blocking writers, and drops nothing else."""

import asyncio
import json
import os
import time
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from db.audit import audit_database
from db.database import Database
from db.domain import State
from db.maintenance.retention import DROP_ATTEMPTS, RetentionRejected, drop_expired, ensure_partitions
from db.orders import OrderRepository
from orchestrator.settings import Settings
from orchestrator.worker.event_maintenance import EventMaintenance
from tests.command_line import CommandLine
from tests.orders import OrderDriver, new_order

KEEP = timedelta(days=90)
LONGEST_WAIT = "1s"
"""A writer that waits longer fails."""

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
async def shop(url):
    async with Database(url, max_size=8) as pool:
        yield OrderDriver(OrderRepository(pool, "worker-1"), pool)


def execute(url, statement):
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(statement)
        return cursor.fetchall() if cursor.description else []


def partitions(url):
    return [row[0] for row in execute(url, "select name from event_partitions()")]


async def told_wrongly(pool):
    """Return the violations about events; these orders have no provider records."""
    found = (await audit_database(pool)).violations
    return [violation for violation in found if violation.invariant in (1, 2, 6, 7, 9)]


def age(url, order_id, days):
    """Move an order and its events back by a number of days, into a partition of that time."""
    day = datetime.now(UTC) - timedelta(days=days)
    name = f"events_{day:%Y%m%d}"
    if name not in partitions(url):
        execute(
            url,
            f"create table {name} partition of events for values from ('{day:%Y-%m-%d}Z')"
            f" to ('{day + timedelta(days=1):%Y-%m-%d}Z')",
        )
    execute(url, AGE.format(age=f"interval '{24 * days} hours'", order_id=order_id))
    return name


async def test_old_events_are_dropped_and_all_other_rows_stay(url):
    async with shop(url) as driver:
        old = await driver.carry_to(State.COMPLETED)
        young = await driver.carry_to(State.CANCELLED)
        name = age(url, old, 100)
        kept = age(url, young, 80)
        kept_rows = (
            "select (select count(*) from orders), (select sum(orders) from latency_rollup),"
            " (select count(*) from provider.ledger), (select count(*) from payments)"
        )
        before = execute(url, kept_rows)
        looked = await drop_expired(url, KEEP, dry_run=True)
        assert ([p.name for p in looked.expired], looked.dropped) == ([name], [])
        assert name in partitions(url)

        report = await drop_expired(url, KEEP)
        assert [p.name for p in report.dropped] == [name]
        assert name not in partitions(url)
        assert kept in partitions(url)
        assert execute(url, "select to_regclass('" + name + "')") == [(None,)]
        assert execute(url, kept_rows) == before
        assert (await drop_expired(url, KEEP)).expired == []

        # The audit reports how many orders have no events, and no violation for them.
        audit = await audit_database(driver.pool)
        assert (audit.finished, audit.without_events) == (2, 1)
        assert await told_wrongly(driver.pool) == []
        assert audit.events_since == report.dropped[0].to_at


async def test_the_audit_reports_missing_events_that_were_not_dropped(url):
    async with shop(url) as driver:
        age(url, await driver.carry_to(State.COMPLETED), 100)
        young = await driver.carry_to(State.COMPLETED)
        await drop_expired(url, KEEP)
        execute(url, f"delete from events where order_id = '{young}'")
        found = {(v.invariant, v.order_id) for v in (await audit_database(driver.pool)).violations}
        assert {(1, young), (2, young)} <= found


async def test_events_of_an_open_order_and_all_later_ones_stay(url):
    async with shop(url) as driver:
        age(url, await driver.carry_to(State.COMPLETED), 120)
        still_open = await driver.carry_to(State.IN_REVIEW)
        of_open = age(url, still_open, 110)
        later = age(url, await driver.carry_to(State.COMPLETED), 100)
        report = await drop_expired(url, KEEP)
        assert [len(report.dropped), [p.name for p in report.held]] == [1, [of_open, later]]
        count = execute(url, f"select count(*) from events where order_id = '{still_open}'")
        assert count[0][0] > 0


async def test_no_writer_waits_while_partitions_are_created_and_dropped(url):
    """Writers have a short lock timeout, and none fails."""
    stop = asyncio.Event()
    impatient = psycopg.conninfo.make_conninfo(url, options=f"-c lock_timeout={LONGEST_WAIT}")

    async def write(driver):
        written = 0
        while not stop.is_set():
            await driver.carry_to(State.COMPLETED)
            written += 1
        return written

    async with shop(impatient) as driver:
        days = range(100, 130)
        for days_ago in days:
            age(url, await driver.carry_to(State.CANCELLED), days_ago)
        writers = [asyncio.create_task(write(driver)) for _ in range(4)]
        report = await drop_expired(url, KEEP)
        # Partitions ahead are created during the writes too; a call that gets no lock is repeated.
        made = 0
        for ahead in range(8, 60):
            try:
                made += execute(url, f"select ensure_event_partitions({ahead})")[0][0]
            except psycopg.errors.LockNotAvailable:
                continue
        stop.set()
        written = await asyncio.gather(*writers)
        assert min(written) > 0
        assert len(report.dropped) == len(days)
        assert made > 0
        assert await told_wrongly(driver.pool) == []


async def test_a_reader_of_an_old_partition_delays_only_its_drop(url, monkeypatch):
    monkeypatch.setattr("db.maintenance.retention.DETACH_TIMEOUT_MS", 300)
    impatient = psycopg.conninfo.make_conninfo(url, options="-c lock_timeout=200ms")
    async with shop(impatient) as driver:
        name = age(url, await driver.carry_to(State.COMPLETED), 100)
        other = age(url, await driver.carry_to(State.COMPLETED), 99)
        with psycopg.connect(url) as reader:
            assert reader.execute("select count(*) from events").fetchone()[0] > 0
            report = await drop_expired(url, KEEP)
            assert [p.name for p in report.busy] == [name, other]
            await driver.carry_to(State.COMPLETED)
            assert await told_wrongly(driver.pool) == []
        # The next call finalizes the detachment.
        report = await drop_expired(url, KEEP)
        assert sorted(p.name for p in report.dropped) == sorted([name, other])
        assert execute(url, "select count(*) from dropped_events where dropped_at is null") == [(0,)]


@pytest.fixture
async def detached(url):
    """A partition that a killed process had detached and not dropped."""
    async with shop(url) as driver:
        name = age(url, await driver.carry_to(State.COMPLETED), 100)
    execute(
        url,
        "insert into dropped_events (to_at, from_at, partition, bytes)"
        f" select to_at, from_at, name, 0 from event_partitions() where name = '{name}'",
    )
    execute(url, f"alter table events detach partition {name}")
    return name


async def test_a_detached_partition_is_dropped_by_the_next_call(url, detached):
    assert [p.name for p in (await drop_expired(url, KEEP)).dropped] == [detached]
    assert execute(url, f"select to_regclass('{detached}')") == [(None,)]


async def test_the_drop_of_a_locked_partition_is_retried_and_then_left(url, detached, monkeypatch):
    monkeypatch.setattr("db.maintenance.retention.DROP_TIMEOUT_MS", 100)
    with psycopg.connect(url) as holder:
        holder.execute(f"lock table {detached} in access share mode")
        began = time.monotonic()
        report = await drop_expired(url, KEEP)
        assert time.monotonic() - began >= DROP_ATTEMPTS * 0.1
        assert ([p.name for p in report.busy], report.dropped) == ([detached], [])
    assert [p.name for p in (await drop_expired(url, KEEP)).dropped] == [detached]


async def test_only_one_process_drops_at_a_time(url):
    with psycopg.connect(url) as other:
        other.execute("select pg_advisory_lock(hashtext('event_retention'))")
        assert (await drop_expired(url, KEEP)).is_elsewhere


async def test_another_user_than_the_owner_cannot_drop_and_can_create_partitions(postgres, url):
    async with shop(url) as driver:
        age(url, await driver.carry_to(State.COMPLETED), 100)
    execute(url, "create role impostor login; grant usage on schema public to impostor")
    try:
        execute(url, "grant select, insert on all tables in schema public to impostor")
        execute(url, "grant execute on function ensure_event_partitions(int) to impostor")
        theirs = psycopg.conninfo.make_conninfo(url, user="impostor")
        with pytest.raises(RetentionRejected):
            await drop_expired(theirs, KEEP)
        execute(theirs, "select ensure_event_partitions(9)")
    finally:
        execute(url, "drop owned by impostor; drop role impostor")


def as_if_nobody_had_made_days(url, since):
    """Put all events from `since` on into the unbounded partition."""
    for row in execute(
        url, f"select name from event_partitions() where to_at is null or from_at >= '{since}'"
    ):
        execute(url, f"drop table {row[0]}")
    execute(url, f"create table events_ahead partition of events for values from ('{since}') to (maxvalue)")


async def steps_until_made(pool):
    """Return the number of calls, and the partitions that the last one created."""
    for steps in range(1, 10):
        made = await ensure_partitions(pool)
        if made is not None:
            return steps, made
    raise AssertionError("the partition was never bounded")


async def test_a_filled_unbounded_partition_is_bounded_during_writes(url):
    today = execute(url, "select date_trunc('day', now(), 'UTC')")[0][0]
    as_if_nobody_had_made_days(url, today)
    impatient = psycopg.conninfo.make_conninfo(url, options="-c lock_timeout=500ms")
    async with shop(impatient) as driver:
        before = await driver.carry_to(State.COMPLETED)
        stop = asyncio.Event()

        async def write():
            while not stop.is_set():
                await driver.carry_to(State.COMPLETED)

        writing = asyncio.create_task(write())
        try:
            assert await steps_until_made(driver.pool) == (3, 1)
        finally:
            stop.set()
            await writing
        ended, ahead = execute(
            url, "select name, from_at from event_partitions() where from_at >= now()::date"
        )
        assert (ended[0], ahead[0]) == (f"events_{today:%Y%m%d}", "events_ahead")
        assert ahead[1] - today == timedelta(days=30)
        assert len(await driver.events(before)) > 0
        assert execute(url, "select count(*) from pg_constraint where conname = 'events_ahead_ends'") == [
            (0,)
        ]
        assert await told_wrongly(driver.pool) == []


async def test_a_filled_unbounded_partition_is_not_scanned_while_writers_are_blocked(url):
    as_if_nobody_had_made_days(url, datetime.now(UTC).date())
    output = []
    with psycopg.connect(url, autocommit=True, options="-c client_min_messages=debug1") as connection:
        connection.add_notice_handler(lambda notice: output.append(notice.message_primary))
        connection.execute(
            "insert into events (order_id, at, kind, state) values ('now', now(), 'accepted', 'received')"
        )
        for _ in range(2):
            assert connection.execute("select ensure_event_partitions()").fetchone() == (None,)
        assert any("verifying table" in each for each in output)
        output.clear()
        assert connection.execute("select ensure_event_partitions()").fetchone() == (1,)
    assert any("is implied by existing constraints" in each for each in output)
    assert not any("verifying table" in each for each in output)


async def test_the_bound_of_a_filled_partition_moves_before_it_is_reached(url):
    """The constraint rejects no event, even if partitions cannot be created for a long time."""
    as_if_nobody_had_made_days(url, datetime.now(UTC).date())
    execute(url, "insert into events (order_id, at, kind, state) values ('a', now(), 'accepted', 'received')")
    execute(
        url, "alter table events_ahead add constraint events_ahead_ends check (at < '2026-01-01Z') not valid"
    )
    execute(url, "select ensure_event_partitions()")
    execute(url, "insert into events (order_id, at, kind, state) values ('b', now(), 'accepted', 'received')")


async def test_event_maintenance_creates_and_drops_partitions(url):
    async with shop(url) as driver:
        name = age(url, await driver.carry_to(State.COMPLETED), 100)
        as_if_nobody_had_made_days(url, datetime.now(UTC).date() + timedelta(days=1))
        settings = Settings(database_url=url, events_keep_days=90)
        assert await EventMaintenance(settings, driver.pool).run_once()
        assert name not in partitions(url)
        ahead = execute(
            url, "select from_at - now() > interval '7 days' from event_partitions() where to_at is null"
        )
        assert ahead == [(True,)]
        await driver.open(new_order())


async def test_event_maintenance_drops_nothing_by_default(url):
    async with shop(url) as driver:
        name = age(url, await driver.carry_to(State.COMPLETED), 1000)
        assert await EventMaintenance(Settings(database_url=url), driver.pool).run_once()
        assert name in partitions(url)


async def test_the_command_reports_and_drops(url):
    async with shop(url) as driver:
        name = age(url, await driver.carry_to(State.COMPLETED), 100)
    commands = CommandLine({**os.environ, "DATABASE_URL": url})
    code, output = await commands.run("retention", "--keep", "90d", "--dry-run")
    assert (code, "would drop: " + name in output) == (0, True), output
    code, output = await commands.run("retention", "--keep", "90d", "--json")
    assert [dropped["partition"] for dropped in json.loads(output)["dropped"]] == [name]
    code, output = await commands.run("retention", "--keep", "90d")
    assert (code, output.count("\n")) == (0, 1)
    assert "No partition is older" in output
    for wrong in (["--keep", "0d"], ["--keep", "soon"], []):
        code, output = await commands.run("retention", *wrong)
        assert (code, output.count("\n")) == (2, 1), output


async def test_event_maintenance_survives_a_database_without_migrations(postgres):
    with postgres.fresh_database(template="template0") as url:
        async with Database(url) as pool:
            assert not await EventMaintenance(Settings(database_url=url), pool).run_once()
