"""Each database user has exactly the privileges it needs."""

from collections.abc import Callable, Iterator

import psycopg
import pytest
from psycopg import Connection

from tests.deployment.compose import SECRETS
from tests.deployment.processes import Host
from tests.servers import PostgresServer

PASSWORDS = {
    "orders_migrator": "ORDERS_MIGRATOR_PASSWORD",
    "orders_writer": "ORDERS_WRITER_PASSWORD",
    "orders_api": "ORDERS_API_PASSWORD",
    "orders_loadtest": "ORDERS_LOADTEST_PASSWORD",
    "orders_reader": "ORDERS_READER_PASSWORD",
    "temporal": "TEMPORAL_DB_PASSWORD",
}

APPEND = {"INSERT", "SELECT"}
CHANGE = APPEND | {"UPDATE"}
WRITER = {
    "public.events": APPEND,
    "public.disturbances": APPEND,
    "public.fault_changes": APPEND,
    "provider.ledger": APPEND,
    "public.latency_rollup": CHANGE,
    "public.orders": CHANGE,
    "public.payments": CHANGE,
    "public.shipments": CHANGE,
    "public.reconcilers": CHANGE,
    "public.runs": CHANGE,
    "provider.packages": CHANGE,
    "provider.parcels": CHANGE,
    "public.step_attempts": CHANGE | {"DELETE"},
    "public.api_keys": set(),
}
"""Tables with other privileges than SELECT alone, which is the default for a new table."""

API = WRITER | {
    "public.api_keys": {"SELECT"},
    "public.runs": CHANGE | {"DELETE"},
    "public.baseline_run": CHANGE | {"DELETE"},
    "public.rejected_starts": CHANGE | {"DELETE"},
}
LOADTEST = {"public.runs": CHANGE, "public.disturbances": APPEND, "public.api_keys": set()}

GRANTS = """
select n.nspname || '.' || c.relname, array(
    select privilege
    from unnest('{SELECT,INSERT,UPDATE,DELETE,TRUNCATE,REFERENCES,TRIGGER}'::text[]) privilege
    where has_table_privilege(%s, c.oid, privilege)
)
from pg_class c join pg_namespace n on n.oid = c.relnamespace
where n.nspname in ('public', 'provider') and c.relkind in ('r', 'p', 'v')
"""

Session = Connection[tuple[object, ...]]
Connect = Callable[..., Session]


@pytest.fixture
def connect(host: Host) -> Iterator[Connect]:
    """Opens sessions over TCP as a user."""
    opened: list[Session] = []

    def connected(user: str, database: str = "orders", password: str | None = None) -> Session:
        session = psycopg.connect(
            host="127.0.0.1", port=host.ports.postgres, user=user, dbname=database, autocommit=True,
            password=SECRETS[PASSWORDS[user]] if password is None else password,
        )  # fmt: skip
        opened.append(session)
        return session

    yield connected
    for session in opened:
        session.close()


def refused(session: Session, statement: str) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        session.execute(statement.encode())


def granted(session: Session, user: str) -> dict[str, set[str]]:
    return {str(name): set(each) for name, each in session.execute(GRANTS, (user,)).fetchall()}  # type: ignore[call-overload]


def test_jobs_can_be_repeated(host: Host) -> None:
    for job in ("postgres-roles", "migrate"):
        done = host.run(job)
        assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("user", PASSWORDS)
def test_a_password_is_required(connect: Connect, user: str) -> None:
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        connect(user, password="another")


@pytest.mark.parametrize("user", PASSWORDS)
def test_no_user_has_server_wide_privileges(connect: Connect, postgres: PostgresServer, user: str) -> None:
    with psycopg.connect(postgres.url("postgres")) as superuser:
        row = superuser.execute(
            "select rolsuper or rolcreatedb or rolcreaterole or rolreplication or rolbypassrls from pg_roles"
            " where rolname = %s",
            (user,),
        ).fetchone()
    assert row == (False,)


@pytest.mark.parametrize(
    ("user", "database"),
    [
        ("temporal", "orders"),
        ("orders_migrator", "temporal"),
        ("orders_writer", "temporal"),
        ("orders_writer", "temporal_visibility"),
        ("orders_reader", "temporal"),
        ("orders_api", "temporal"),
        ("orders_loadtest", "postgres"),
        ("orders_writer", "postgres"),
    ],
)
def test_each_user_can_connect_to_its_own_database_only(connect: Connect, user: str, database: str) -> None:
    with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
        connect(user, database)


def test_temporal_owns_its_databases(connect: Connect) -> None:
    for database in ("temporal", "temporal_visibility"):
        session = connect("temporal", database)
        session.execute("create table schema_version (version_partition int)")
        session.execute("drop table schema_version")
        # Required for the trusted extension btree_gin, which the visibility tables use.
        assert session.execute("select has_database_privilege(current_database(), 'CREATE')").fetchone() == (
            True,
        )


@pytest.mark.parametrize(
    ("user", "table"), [("orders_writer", WRITER), ("orders_api", API), ("orders_loadtest", LOADTEST)]
)
def test_writers_have_the_listed_privileges_and_can_read_the_other_tables(
    connect: Connect, user: str, table: dict[str, set[str]]
) -> None:
    rights = granted(connect("orders_migrator"), user)
    for name, allowed in rights.items():
        assert allowed == table.get(name, {"SELECT"}), name
    assert table.keys() <= rights.keys()


def test_only_the_api_can_read_key_hashes(connect: Connect) -> None:
    connect("orders_api").execute("select key_hash from api_keys")
    for user in ("orders_writer", "orders_loadtest", "orders_reader"):
        session = connect(user)
        refused(session, "select key_hash from api_keys")
        assert session.execute("select api_key_exists()").fetchone() is not None


def test_load_tests_cannot_change_orders(connect: Connect) -> None:
    session = connect("orders_loadtest")
    refused(session, "update orders set run_id = null")
    refused(session, "insert into fault_changes (profile, seed, rates) values ('none', 1, '{}')")
    refused(session, "delete from runs")
    refused(session, "set role orders_writer")


def test_the_writer_cannot_change_the_past(connect: Connect) -> None:
    writer = connect("orders_writer")
    for table in ("events", "provider.ledger", "fault_changes"):
        refused(writer, f"delete from {table}")
        refused(writer, f"truncate {table}")
    refused(writer, "update events set outcome = 'ok'")
    refused(writer, "update provider.ledger set amount_cents = 0")
    refused(writer, "delete from orders")
    refused(writer, "update event_retention set events_since = now()")
    refused(writer, "delete from latency_rollup")
    refused(writer, "select rebuild_latency_rollup()")


def test_the_writer_cannot_change_the_schema(connect: Connect) -> None:
    writer = connect("orders_writer")
    refused(writer, "drop table orders")
    refused(writer, "alter table orders add column more int")
    refused(writer, "alter table orders disable trigger orders_reject_illegal_transition")
    refused(writer, "create table more (a int)")
    refused(writer, "create schema more")
    refused(writer, "create temporary table more (a int)")
    refused(writer, "create role more")
    refused(writer, "set role orders_migrator")
    refused(writer, "alter role orders_reader set statement_timeout = 0")
    refused(writer, "insert into schema_migrations values ('1')")


@pytest.mark.parametrize("user", ["orders_writer", "orders_api", "orders_loadtest"])
def test_writers_have_a_statement_timeout_of_one_minute(connect: Connect, user: str) -> None:
    assert connect(user).execute("show statement_timeout").fetchone() == ("1min",)


def test_the_reader_can_read_all_tables_and_write_none(connect: Connect) -> None:
    reader = connect("orders_reader")
    rights = granted(connect("orders_migrator"), "orders_reader")
    # Except the hashes of keys.
    assert rights.pop("public.api_keys", set()) == set()
    assert set(map(frozenset, rights.values())) == {frozenset({"SELECT"})}
    for name in rights:
        reader.execute(f"select * from {name} limit 1".encode())
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        reader.execute("delete from orders")
    # The user can switch off read-only transactions, but has no privileges to write.
    reader.execute("set default_transaction_read_only = off")
    for statement in (
        "delete from orders",
        "insert into fault_changes (profile, seed, rates) values ('none', 1, '{}')",
        "update runs set scenario = 'other'",
        "create table more (a int)",
        "create temporary table more (a int)",
        "set role orders_writer",
    ):
        refused(reader, statement)


def test_the_reader_has_a_statement_timeout_of_two_seconds(connect: Connect) -> None:
    reader = connect("orders_reader")
    assert reader.execute("show statement_timeout").fetchone() == ("2s",)
    with pytest.raises(psycopg.errors.QueryCanceled):
        reader.execute("select pg_sleep(10)")


def test_the_server_s_log_contains_no_password(postgres: PostgresServer) -> None:
    log = postgres.socket_dir.parent / "postgres.log"
    assert log.exists()
    for secret in SECRETS.values():
        assert secret not in log.read_text()
