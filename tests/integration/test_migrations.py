"""The migrations: up, down and up again, and concurrently."""

from datetime import timedelta

import psycopg
import pytest

from db.domain import AttemptOutcome, State
from tests.servers import dbmate, start_dbmate

SCHEMA = """
select 'table ' || n.nspname || '.' || c.relname || ' ' || c.relkind::text from pg_class c
    join pg_namespace n on n.oid = c.relnamespace
    where n.nspname in ('public', 'provider') and c.relname not like 'schema_migrations%'
union all
select 'column ' || table_schema || '.' || table_name || '.' || column_name || ' ' || data_type
        || coalesce(column_default, '') || is_nullable
    from information_schema.columns
    where table_schema in ('public', 'provider') and table_name <> 'schema_migrations'
union all
select 'constraint ' || conrelid::regclass::text || ' ' || pg_get_constraintdef(oid) from pg_constraint
    where connamespace in (select oid from pg_namespace where nspname in ('public', 'provider'))
        and conrelid::regclass::text not like '%schema_migrations'
union all
select 'index ' || indexdef from pg_indexes
    where schemaname in ('public', 'provider') and tablename <> 'schema_migrations'
union all
select 'function ' || p.oid::regprocedure::text from pg_proc p join pg_namespace n on n.oid = p.pronamespace
    where n.nspname in ('public', 'provider')
union all
select 'trigger ' || pg_get_triggerdef(oid) from pg_trigger where not tgisinternal
union all
select 'type ' || t.typname || ' ' || string_agg(e.enumlabel, ',' order by e.enumsortorder)
    from pg_type t join pg_enum e on e.enumtypid = t.oid group by t.typname
"""


def schema(url: str) -> list[str]:
    with psycopg.connect(url) as connection:
        return sorted(row[0] for row in connection.execute(SCHEMA).fetchall())


def applied(url: str) -> list[str]:
    with psycopg.connect(url) as connection:
        return [
            row[0]
            for row in connection.execute("select version from schema_migrations order by 1").fetchall()
        ]


@pytest.fixture
def empty_database(postgres):
    with postgres.fresh_database(template="template0") as url:
        yield url


def succeed(url: str, command: str) -> None:
    done = dbmate(url, command)
    assert done.returncode == 0, done.stderr


def test_every_migration_can_be_rolled_back_and_applied_again(empty_database):
    succeed(empty_database, "up")
    migrated, versions = schema(empty_database), applied(empty_database)
    assert len(versions) >= 2
    for _ in versions:
        succeed(empty_database, "down")
    assert applied(empty_database) == []
    assert schema(empty_database) == []
    succeed(empty_database, "up")
    assert schema(empty_database) == migrated
    assert applied(empty_database) == versions


def test_applying_them_twice_changes_nothing(empty_database):
    succeed(empty_database, "up")
    migrated = schema(empty_database)
    succeed(empty_database, "up")
    assert schema(empty_database) == migrated


def test_concurrent_processes_apply_each_migration_once(empty_database):
    processes = [start_dbmate(empty_database, "up") for _ in range(3)]
    results = [(process.communicate(timeout=60)[0], process.returncode) for process in processes]
    assert [code for _, code in results] == [0, 0, 0], results
    versions = applied(empty_database)
    assert len(versions) == len(set(versions)) >= 2


def test_the_enum_types_have_the_values_of_the_domain_in_order(order_database_url):
    with psycopg.connect(order_database_url) as connection:
        for name, values in (("order_state", State), ("attempt_outcome", AttemptOutcome)):
            row = connection.execute(f"select enum_range(null::{name})::text[]").fetchone()
            assert row is not None
            assert row[0] == [value.value for value in values]


PARTITIONS = "select name, from_at, to_at from event_partitions()"


def test_events_have_daily_partitions_and_an_unbounded_one_without_a_gap(order_database_url):
    with psycopg.connect(order_database_url) as connection:
        rows = connection.execute(PARTITIONS).fetchall()
        today = connection.execute("select date_trunc('day', now(), 'UTC')").fetchone()[0]
    # Yesterday is for a clock that is set back.
    assert [row[0] for row in rows] == [
        *(f"events_{today + timedelta(days=n):%Y%m%d}" for n in range(-1, 8)),
        "events_ahead",
    ]
    assert [row[2] for row in rows] == [*(row[1] for row in rows[1:]), None]


def test_partitions_are_created_once_and_further_ahead_on_request(order_database_url):
    with psycopg.connect(order_database_url) as connection:
        assert connection.execute("select ensure_event_partitions()").fetchone() == (0,)
        assert connection.execute("select ensure_event_partitions(10)").fetchone() == (3,)
        connection.rollback()


def test_an_event_beyond_all_days_stays_in_its_partition_which_gets_a_bound(order_database_url):
    with psycopg.connect(order_database_url) as connection:
        connection.execute(
            "insert into events (order_id, at, kind, state)"
            " values ('early', now() + interval '49 days', 'accepted', 'received')"
        )
        partition_of_event = "select tableoid::regclass::text from events where order_id = 'early'"
        assert connection.execute(partition_of_event).fetchone() == ("events_ahead",)
        # A constraint is added, found too early, replaced and validated: one partition up to the event's day.
        made = [connection.execute("select ensure_event_partitions(11)").fetchone() for _ in range(4)]
        assert made == [(None,), (None,), (None,), (1,)]
        rows = connection.execute(PARTITIONS).fetchall()
        assert connection.execute(partition_of_event).fetchone() == (rows[-2][0],)
        assert [row[2] for row in rows] == [*(row[1] for row in rows[1:]), None]
        connection.rollback()


def test_the_days_of_a_long_downtime_are_one_partition(order_database_url):
    with psycopg.connect(order_database_url) as connection:
        connection.execute("drop table events_ahead")
        for row in connection.execute(PARTITIONS).fetchall():
            connection.execute(f"drop table {row[0]}")
        connection.execute(
            "create table events_ahead partition of events for values from ('2026-01-01Z') to (maxvalue)"
        )
        connection.execute("select ensure_event_partitions()")
        rows = connection.execute(PARTITIONS).fetchall()
        assert len(rows) == 10
        assert rows[0][0] == "events_20260101"
        assert (
            rows[0][2]
            == rows[1][1]
            == connection.execute("select date_trunc('day', now(), 'UTC')").fetchone()[0]
        )
        connection.rollback()


def test_creating_partitions_does_not_wait_for_a_reader(order_database_url):
    with psycopg.connect(order_database_url) as reader, psycopg.connect(order_database_url) as connection:
        reader.execute("select count(*) from events")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            connection.execute("select ensure_event_partitions(20)")
