"""The order database on Debian's PostgreSQL: migrations, every statement, the repository, and an order."""

import re
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from typer.testing import CliRunner

from db import queries
from db.database import MIN_SERVER_VERSION, Database
from db.read_only_database import ReadOnlyDatabase
from orchestrator.audit import audit
from orchestrator.cli import app
from orchestrator.settings import Settings
from orchestrator.temporal.client import connect
from tests.integration.test_order_repository_outcomes import *  # noqa: F403
from tests.integration.test_order_repository_steps import *  # noqa: F403
from tests.orders import NO_FAULTS
from tests.servers import debian_postgres_server, debian_postgres_versions
from tests.shop import open_shop
from tests.temporal_server import temporal_server

pytestmark = pytest.mark.skipif(
    not debian_postgres_versions(), reason="needs a PostgreSQL of Debian: apt-get install postgresql"
)

STATEMENTS = [
    pytest.param(statement, id=f"{file.stem}-{name}")
    for file in sorted(Path(queries.__file__).parent.glob("*.sql"))
    for name, statement in queries.load(file.name).items()
]


@pytest.fixture(scope="module")
def order_database_url() -> Iterator[str]:
    """The migrated database of Debian's server; the fixtures of the imported tests use it too."""
    with debian_postgres_server(debian_postgres_versions()[0]) as server:
        url = server.url("orders")
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv("DATABASE_URL", url)
            done = CliRunner().invoke(app, ["migrate"])
        assert done.exit_code == 0, done.output
        yield url


def test_the_server_is_not_the_embedded_one(order_database_url: str) -> None:
    with psycopg.connect(order_database_url) as connection:
        assert MIN_SERVER_VERSION <= connection.info.server_version < 180000


def test_the_dashboard_reads_with_the_role_of_the_reader(order_database_url: str) -> None:
    database = ReadOnlyDatabase(order_database_url)
    assert database.fetch_all("select current_user as role") == [{"role": "orders_reader"}]
    database.close()


@pytest.mark.parametrize("statement", STATEMENTS)
def test_every_statement_is_valid(order_database_url: str, statement: str) -> None:
    names: list[str] = []

    def number(match: re.Match[str]) -> str:
        if match[1] not in names:
            names.append(match[1])
        return f"${names.index(match[1]) + 1}"

    text = re.sub(r"%\((\w+)\)[sbt]", number, statement).replace("%%", "%")
    with psycopg.connect(order_database_url) as connection:
        result = connection.pgconn.prepare(b"", text.encode())
    # The type of a parameter may be ambiguous here: psycopg sends it with the value.
    sqlstate = result.error_field(psycopg.pq.DiagnosticField.SQLSTATE)
    is_ambiguous = sqlstate in (b"42P18", b"42725") or b"operator does not exist" in result.error_message
    assert result.status == psycopg.pq.ExecStatus.COMMAND_OK or is_ambiguous, result.error_message


@pytest.fixture
def temporal() -> Iterator[Settings]:
    with temporal_server() as settings:
        yield settings


async def test_an_order_runs_through_the_workers_and_passes_the_audit(
    pool: Database, temporal: Settings
) -> None:
    client = await connect(temporal)
    async with open_shop(client, pool, NO_FAULTS) as shop:
        handle = await shop.place(shop.order("1"))
        assert (await handle.result()).outcome == "completed"
        await shop.until_visible([handle])
        report = await audit(pool, client, shop.run_id)
    assert (report.finished, report.violations) == (1, [])


def test_orders_are_found_by_a_prefix_of_their_id_through_the_index(order_database_url: str) -> None:
    statement = queries.load("order_search.sql")["count_matches"]
    with psycopg.connect(order_database_url) as connection, psycopg.ClientCursor(connection) as cursor:
        assert connection.execute(
            "select datcollate from pg_database where datname = 'orders'"
        ).fetchone() != ("C",)
        # Tables as small as these would be read sequentially.
        connection.execute("set enable_seqscan = off")
        cursor.execute("explain " + statement, {"prefix": "run-", "max_count": 10})
        assert "Index Cond: ((order_id >= 'run-'" in str(cursor.fetchall())
