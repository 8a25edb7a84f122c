"""The read-only connection pool: permissions, timeouts, time zone and lost connections."""

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from db.read_models import latency, live_orders
from db.read_only_database import ReadOnlyDatabase
from orchestrator.errors import DatabaseUnavailable, StatementTimeout
from tests.dashboard.conftest import reader_of


@pytest.mark.parametrize(
    "statement",
    [
        "delete from orders",
        "set default_transaction_read_only = off; update orders set run_id = 'x'",
        "set default_transaction_read_only = off; insert into provider.ledger (payment_id, order_id, kind,"
        " amount_cents) values ('a', 'b', 'charge', 1)",
        "set default_transaction_read_only = off; create table mine (x int)",
        "set role postgres",
        "select rebuild_latency_rollup()",
    ],
)
def test_the_reader_role_cannot_write(seeded_url, statement):
    url = seeded_url.replace("//postgres", "//orders_reader")
    with psycopg.connect(url) as connection, pytest.raises(psycopg.Error) as error:
        connection.execute(statement)
    assert error.value.sqlstate in ("25006", "42501")


def test_a_slow_query_is_cancelled_by_the_statement_timeout(seeded):
    with pytest.raises(StatementTimeout):
        seeded.fetch_all("select pg_sleep(3)")
    assert seeded.fetch_all("select 1 as one") == [{"one": 1}]


def test_times_are_in_utc_whatever_the_time_zone_of_the_server(postgres):
    with postgres.fresh_database() as url:
        name = conninfo_to_dict(url)["dbname"]
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(f"alter database {name} set timezone = 'Asia/Kolkata'")
            connection.execute(f"alter role orders_reader in database {name} set timezone = 'Asia/Tokyo'")
            connection.execute(
                "insert into fault_changes (at, profile, seed, rates)"
                " values ('2026-01-31 12:00:00+00', 'slow', 1, '{}')"
            )
        database = reader_of(url)
        span = latency.active_faults(database)
        database.close()
    # Plotly ignores the offset of a time.
    assert span.since.isoformat() == "2026-01-31T12:00:00+00:00"


def test_an_unavailable_database_raises_one_error(tmp_path):
    database = ReadOnlyDatabase(f"postgresql://orders_reader@/orders?host={tmp_path}")
    with pytest.raises(DatabaseUnavailable):
        live_orders.in_flight(database)
    database.close()


def test_a_terminated_connection_is_replaced_before_the_next_query(seeded_url):
    database = reader_of(seeded_url)
    (before,) = database.fetch_all("select pg_backend_pid() as pid")
    with psycopg.connect(seeded_url, autocommit=True) as connection:
        connection.execute("select pg_terminate_backend(%s, 5000)", (before["pid"],))
    (after,) = database.fetch_all("select pg_backend_pid() as pid")
    assert after["pid"] != before["pid"]
    with database._connection() as connection:
        parameters = connection.info.get_parameters()
    assert (parameters["tcp_user_timeout"], parameters["keepalives_count"]) == ("4000", "2"), (
        "lost connections are detected"
    )
    database.close()
