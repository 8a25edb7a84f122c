"""The dashboard, workers and the doctor behind PgBouncer, in session and in transaction mode."""

import asyncio
import time
from collections.abc import Iterator

import psycopg
import pytest

from db.database import Database, connect
from db.domain import State
from db.maintenance.diagnostics import database_state
from db.orders import OrderRepository
from db.read_models.latency import Selection
from db.read_models.latency_report import latency_csv
from db.read_only_database import ReadOnlyDatabase
from loadtest.bench.seed import seed
from orchestrator.errors import StatementTimeout
from tests.dashboard.conftest import NAMES, Pages
from tests.orders import TEMPORAL, OrderDriver
from tests.pgbouncer import pgbouncer, pgbouncer_program

pytestmark = pytest.mark.skipif(
    pgbouncer_program() is None, reason="needs PgBouncer: apt-get install pgbouncer"
)

MODES = ("session", "transaction")


@pytest.fixture(scope="module")
def direct_url(order_database_url: str) -> str:
    seed(order_database_url, 20, days=1, progress=lambda _: None)
    return order_database_url


@pytest.fixture(params=MODES)
def pooled_url(request, direct_url: str) -> Iterator[str]:
    # In session mode each client keeps a connection.
    with pgbouncer(
        direct_url, request.param, connections={"session": 20, "transaction": 2}[request.param]
    ) as url:
        yield url


@pytest.fixture
def transaction_url(direct_url: str) -> Iterator[str]:
    """PgBouncer with one server connection, which all clients share."""
    with pgbouncer(direct_url, "transaction", connections=1) as url:
        yield url


def test_every_page_works(page: Pages, pooled_url: str) -> None:
    for name in NAMES:
        test = page.run(name, pooled_url)
        assert not test.exception, name
        assert not [error.value for error in test.error if "database" in error.value.lower()], name


async def test_orders_of_concurrent_clients_complete(pooled_url: str) -> None:
    # Different numbers of executions: prepared statements of the clients would have the same names.
    async def complete(orders: int) -> list[State]:
        async with Database(pooled_url, max_size=2) as pool:
            driver = OrderDriver(OrderRepository(pool, "w", TEMPORAL), pool)
            order_ids = [await driver.carry_to(State.COMPLETED) for _ in range(orders)]
            return [(await driver.row(order_id))["state"] for order_id in order_ids]

    states = await asyncio.gather(*(complete(orders) for orders in (1, 4, 7, 10)))
    assert [state for each in states for state in each] == [State.COMPLETED] * 22


async def test_statements_are_prepared_on_a_direct_connection_and_where_it_is_set(
    direct_url: str, pooled_url: str
) -> None:
    async def prepared(url: str, setting: bool | None) -> int:
        async with Database(url, max_size=1, prepares_statements=setting) as pool:
            for _ in range(4):
                rows = await pool.fetch_all("select name from pg_prepared_statements")
            return len(rows)

    assert await prepared(direct_url, None) == 1
    assert await prepared(direct_url, False) == 0
    assert await prepared(pooled_url, None) == 0
    assert await prepared(pooled_url, True) == 1


async def test_the_settings_of_a_reader_do_not_apply_to_other_clients(transaction_url: str) -> None:
    before = settings(transaction_url)
    reader = ReadOnlyDatabase(transaction_url)
    with pytest.raises(StatementTimeout):
        reader.fetch_all("select pg_sleep(3)")
    (row,) = reader.fetch_all(
        "select current_user as role, current_setting('transaction_read_only') as read_only"
    )
    assert row == {"role": "orders_reader", "read_only": "on"}
    assert b"".join(latency_csv(reader, Selection())).startswith(b"order_id,")
    state = await database_state(transaction_url, compensation_attempts=1, clock=time.time)
    assert state.pending_migrations == ()
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        reader.fetch_all("insert into disturbances (at, component, action) values (now(), 'a', 'b')")
    reader.close()
    assert settings(transaction_url) == before
    async with Database(transaction_url, max_size=1) as pool:
        driver = OrderDriver(OrderRepository(pool, "w", TEMPORAL), pool)
        await driver.carry_to(State.COMPLETED)


def settings(url: str) -> list[tuple[str, str]]:
    with connect(url, "test") as connection:
        rows = connection.execute(
            "select name, setting from pg_settings"
            " where name <> 'application_name' and name not like 'tcp_%' order by name"
        ).fetchall()
    return [(row["name"], row["setting"]) for row in rows]
