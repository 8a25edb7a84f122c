"""The migrations: up, down and up again, and concurrently."""

from urllib.parse import quote, urlencode

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from db.domain import AttemptOutcome, State
from orchestrator.embedded import migrate, migrations
from orchestrator.settings import Settings
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


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {
            "password": "p@ss/word?%&",
            "channel_binding": "prefer",
            "target_session_attrs": "read-write",
            "keepalives": "1",
            "application_name": "migrations",
            "options": "-c statement_timeout=60s",
        },
    ],
)
@pytest.mark.parametrize("form", ["URL", "keywords"])
def test_parameters_of_libpq_do_not_reach_the_driver_of_dbmate(
    form: str, parameters: dict[str, str], empty_database: str
) -> None:
    text = make_conninfo(empty_database, **parameters)
    if form == "URL":
        text = f"{empty_database}&{urlencode(parameters, quote_via=quote)}"
    migrate(Settings(database_url=text))
    assert len(applied(empty_database)) >= 2


def test_a_database_without_pending_migrations_is_not_locked(order_database_url, monkeypatch):
    monkeypatch.setattr(migrations, "packaged_program", pytest.fail)
    migrate(Settings(database_url=order_database_url))
