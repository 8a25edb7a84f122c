"""The connection pool recovers from an outage, and maps each error of PostgreSQL to an error class."""

import asyncio
from contextlib import aclosing
from pathlib import Path
from time import monotonic
from uuid import uuid4

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from db.database import CONFLICT_ATTEMPTS, MAX_WAITING, Database
from db.errors import (
    DatabaseError,
    DatabaseUnavailable,
    DiskFull,
    LockTimeout,
    PoolExhausted,
    StatementTimeout,
    TooManyConnections,
    TransactionConflict,
    ValueRejected,
    WrongCredentials,
)
from db.sqlstate import error_class_of
from tests.servers import PostgresServer

RECOVERY_SECONDS = 10.0


async def responds(database: Database) -> bool:
    try:
        await database.ping()
    except DatabaseError:
        return False
    return True


# --- Recovery ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("callers", [1, MAX_WAITING + 50])
async def test_callers_that_timed_out_do_not_block_the_pool_after_an_outage(
    postgres: PostgresServer, tmp_path: Path, callers: int
) -> None:
    # No server listens there until the link points to one.
    link = tmp_path / "run"
    async with Database(f"postgresql://postgres@/postgres?host={link}&sslmode=disable") as database:
        for _ in range(2):
            assert not any(await asyncio.gather(*(responds(database) for _ in range(callers))))
        link.symlink_to(postgres.socket_dir)
        not_after = monotonic() + RECOVERY_SECONDS
        while not await responds(database):
            assert monotonic() < not_after, "the pool has not recovered"
            await asyncio.sleep(0.05)


async def test_connections_that_broke_while_idle_fail_no_statement(postgres: PostgresServer) -> None:
    async with Database(postgres.url("orders"), max_size=4, application_name="idle") as database:
        all_are_open = asyncio.Barrier(4)

        async def own_backend_pid() -> int:
            query = "select pg_backend_pid() as pid from generate_series(1, 100000)"
            async with aclosing(database.copy_csv(query)) as chunks:
                chunk = await anext(chunks)
                await all_are_open.wait()
            return int(chunk.splitlines()[1])

        pids = await asyncio.gather(*(own_backend_pid() for _ in range(4)))
        with psycopg.connect(postgres.url("postgres"), autocommit=True) as administrator:
            for pid in pids:
                administrator.execute("select pg_terminate_backend(%s, 5000)", (pid,))
        assert all(await asyncio.gather(*(responds(database) for _ in range(4))))


# --- Errors -----------------------------------------------------------------------------------------


async def test_a_connection_that_is_terminated_during_a_statement_is_database_unavailable(
    order_database_url: str,
) -> None:
    async with Database(order_database_url) as database:
        with pytest.raises(DatabaseUnavailable):
            await database.fetch_one("select pg_terminate_backend(pg_backend_pid())")


async def test_a_server_that_does_not_listen_is_database_unavailable_within_seconds(
    tmp_path: Path,
) -> None:
    began = monotonic()
    async with Database(f"postgresql://postgres@/orders?host={tmp_path}") as database:
        with pytest.raises(DatabaseUnavailable):
            await database.ping()
    assert monotonic() - began < 10


async def test_a_statement_timeout(order_database_url: str) -> None:
    url = make_conninfo(order_database_url, options="-c statement_timeout=1000")
    async with Database(url) as database:
        with pytest.raises(StatementTimeout):
            await database.fetch_one("select pg_sleep(10)")


async def test_a_lock_timeout(order_database_url: str) -> None:
    url = make_conninfo(order_database_url, options="-c lock_timeout=50")
    with psycopg.connect(order_database_url) as holder:
        holder.execute("lock table runs in access exclusive mode")
        async with Database(url) as database:
            with pytest.raises(LockTimeout):
                await database.fetch_one("select count(*) from runs")
        holder.rollback()


@pytest.mark.parametrize(
    ("sqlstate", "error_class", "attempts"),
    [
        ("40001", TransactionConflict, CONFLICT_ATTEMPTS),
        ("40P01", TransactionConflict, CONFLICT_ATTEMPTS),
        ("53100", DiskFull, 1),
        ("53300", TooManyConnections, 1),
        ("57P03", DatabaseUnavailable, 1),
    ],
)
async def test_only_a_conflict_is_retried_and_each_sqlstate_has_its_class(
    order_database_url: str, sqlstate: str, error_class: type[DatabaseError], attempts: int
) -> None:
    with psycopg.connect(order_database_url, autocommit=True) as connection:
        # Sequences are not rolled back, so this one counts the attempts.
        connection.execute("create sequence attempts")
        try:
            async with Database(order_database_url) as database:
                with pytest.raises(error_class) as raised:
                    await database.execute(
                        "do $$ begin perform nextval('attempts');"
                        f" raise exception 'simulated' using errcode = '{sqlstate}'; end $$"
                    )
            assert type(raised.value) is error_class
            assert connection.execute("select last_value from attempts").fetchone() == (attempts,)
        finally:
            connection.execute("drop sequence attempts")


async def test_a_statement_that_succeeds_after_a_conflict_raises_nothing(order_database_url: str) -> None:
    with psycopg.connect(order_database_url, autocommit=True) as connection:
        connection.execute("create sequence attempts")
        try:
            async with Database(order_database_url) as database:
                await database.execute(
                    "do $$ begin if nextval('attempts') = 1 then"
                    " raise exception 'simulated' using errcode = '40P01'; end if; end $$"
                )
            assert connection.execute("select last_value from attempts").fetchone() == (2,)
        finally:
            connection.execute("drop sequence attempts")


async def test_wrong_credentials_are_not_reported_as_an_outage(order_database_url: str) -> None:
    for change in ({"user": f"unknown_{uuid4().hex[:8]}"}, {"dbname": f"unknown_{uuid4().hex[:8]}"}):
        async with Database(make_conninfo(order_database_url, **change)) as database:
            with pytest.raises(WrongCredentials) as raised:
                await database.ping()
            assert "not responding" not in str(raised.value)


async def test_a_role_without_a_free_connection_is_too_many_connections(order_database_url: str) -> None:
    role = f"limited_{uuid4().hex[:8]}"
    with psycopg.connect(order_database_url, autocommit=True) as connection:
        connection.execute(f"create role {role} login connection limit 0")
        try:
            async with Database(make_conninfo(order_database_url, user=role)) as database:
                with pytest.raises(TooManyConnections):
                    await database.ping()
        finally:
            connection.execute(f"drop role {role}")


async def test_a_pool_whose_connections_are_all_in_use_is_exhausted(order_database_url: str) -> None:
    async with Database(order_database_url, max_size=1) as database:
        async with aclosing(database.copy_csv("select generate_series(1, 100000) as n")) as chunks:
            await anext(chunks)
            with pytest.raises(PoolExhausted):
                await database.ping()
        await database.ping()


@pytest.mark.parametrize(
    ("statement", "error_class"),
    [
        ("select 2147483647 + 1", ValueRejected),
        ("select 'NaN'::float8::int", ValueRejected),
        ("insert into event_retention values (null)", ValueRejected),
        # Bugs are not translated.
        ("select * from missing", psycopg.errors.UndefinedTable),
    ],
)
async def test_an_error_of_a_statement_is_translated_by_its_cause(
    order_database_url: str, statement: str, error_class: type[Exception]
) -> None:
    async with Database(order_database_url) as database:
        with pytest.raises(error_class):
            await database.fetch_one(statement)


async def test_the_cause_of_a_rejected_value_does_not_show_the_row(order_database_url: str) -> None:
    async with Database(order_database_url) as database:
        with pytest.raises(ValueRejected) as error:
            await database.execute(
                "insert into payments (payment_id, order_id, amount_cents) values ('secret', 'secret', 1)"
            )
    assert "secret" in str(error.value.__cause__)
    assert "violates foreign key constraint" in error.value.cause
    assert "secret" not in error.value.cause + str(error.value)


@pytest.mark.parametrize(
    ("message", "error_class"),
    [
        ('FATAL:  password authentication failed for user "orders"', WrongCredentials),
        ("fe_sendauth: no password supplied", WrongCredentials),
        ('FATAL:  no pg_hba.conf entry for host "10.0.0.1", user "orders"', WrongCredentials),
        ("FATAL:  sorry, too many clients already", TooManyConnections),
        ("FATAL:  remaining connection slots are reserved", TooManyConnections),
        ("FATAL:  no more connections allowed (max_client_conn)", TooManyConnections),
        ("FATAL:  the database system is starting up", DatabaseUnavailable),
        ("FATAL:  the database system is shutting down", DatabaseUnavailable),
        ("could not translate host name", DatabaseUnavailable),
        ("Connection refused", DatabaseUnavailable),
    ],
)
def test_a_failed_connection_attempt_is_classified_by_its_message(
    message: str, error_class: type[DatabaseError]
) -> None:
    # libpq reports no SQLSTATE for it.
    assert error_class_of(psycopg.OperationalError(f"connection failed: {message}")) is error_class
