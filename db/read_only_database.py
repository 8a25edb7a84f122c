"""Read-only connection pool for the dashboard, with a statement timeout.

Synchronous, because Streamlit pages are. API and workers use `db.database`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, LiteralString

import psycopg
from psycopg import Connection, sql
from psycopg.rows import dict_row
from psycopg_pool import ConnectionPool

from db.database import ACQUIRE_TIMEOUT_SECONDS, CHUNK_BYTES, KEEPALIVE_OPTIONS, ConnectErrors, Row, is_broken
from db.errors import PoolExhausted
from db.sqlstate import translate_errors

ROLE = "orders_reader"
STATEMENT_TIMEOUT_MS = 2_000
EXPORT_TIMEOUT_MS = 900_000
MAX_CONNECTIONS = 4

# Set for each transaction. PgBouncer rejects them as startup parameters, and in transaction mode the settings
# of a session would apply to other clients.
_CONFIGURE: LiteralString = """
select set_config('statement_timeout', %(statement_timeout_ms)s, true),
    set_config('idle_in_transaction_session_timeout', '60000', true),
    -- Charts print the hour of a timestamp and ignore its offset.
    set_config('timezone', 'UTC', true),
    -- A generic plan would keep the conditions of filters that are not set; JIT costs more than it saves.
    set_config('plan_cache_mode', 'force_custom_plan', true),
    set_config('jit', 'off', true),
    -- The dashboard must not take a second core from API and workers.
    set_config('max_parallel_workers_per_gather', '0', true),
    set_config('work_mem', '32MB', true),
    (select set_config('role', rolname, true) from pg_roles where rolname = %(role)s and pg_has_role(
        oid, case when current_setting('server_version_num')::int < 160000 then 'MEMBER' else 'SET' end
    ))
"""


class ReadOnlyDatabase:
    """A small pool of connections with read-only transactions, which have the role `orders_reader` if the
    user may set it.

    Every method raises DatabaseError (`db.errors`), for example StatementTimeout, and ValueRejected for a
    value that PostgreSQL cannot hold.
    """

    def __init__(self, conninfo: str) -> None:
        self._conninfo = conninfo
        self._connect_errors = ConnectErrors()
        self._pool: ConnectionPool[Connection[Row]] = ConnectionPool(
            conninfo,
            min_size=1,
            max_size=MAX_CONNECTIONS,
            open=False,
            timeout=ACQUIRE_TIMEOUT_SECONDS,
            reconnect_timeout=1.0,
            kwargs=_connection_options("dashboard"),
            connection_class=_connection_class(self._connect_errors),
            configure=self._configure,
            check=_check_connection,
        )

    def close(self) -> None:
        self._pool.close(timeout=2)

    def fetch_all(self, statement: LiteralString, parameters: Row | None = None) -> list[Row]:
        try:
            with (
                translate_errors(),
                self._connection() as connection,
                connection.pipeline() as pipeline,
                _read_only_transaction(connection, STATEMENT_TIMEOUT_MS),
            ):
                # PostgreSQL reports the new time zone, which psycopg uses for times, at a synchronization
                # point. It costs no round trip.
                pipeline.sync()
                return connection.execute(statement, parameters).fetchall()
        except PoolExhausted as error:
            pool_size = self._pool.get_stats().get("pool_size", 0)
            raise self._connect_errors.explain(pool_size) from error.__cause__

    def fetch_one(self, statement: LiteralString, parameters: Row | None = None) -> Row | None:
        rows = self.fetch_all(statement, parameters)
        return rows[0] if rows else None

    def _configure(self, _connection: Connection[Row]) -> None:
        self._connect_errors.on_success()

    @contextmanager
    def _connection(self) -> Iterator[Connection[Row]]:
        # Opened by the first query: an export uses its own connection.
        self._pool.open(wait=False)
        with self._pool.connection() as connection:
            yield connection

    def copy_out(self, query: LiteralString, parameters: Row) -> Iterator[bytes]:
        """Yield the result as CSV with a header, in chunks of about CHUNK_BYTES, over a separate
        connection."""
        with (
            translate_errors(),
            Connection.connect(self._conninfo, **_connection_options("dashboard-export")) as connection,
            _read_only_transaction(connection, EXPORT_TIMEOUT_MS),
            psycopg.ClientCursor(connection) as cursor,
        ):
            # COPY accepts no bound parameters; the client cursor quotes them into the text.
            bound = sql.SQL(cursor.mogrify(query, parameters))
            with cursor.copy(sql.SQL("copy ({}) to stdout (format csv, header)").format(bound)) as copy:
                chunk = bytearray()
                for row in copy:
                    chunk += row
                    if len(chunk) >= CHUNK_BYTES:
                        yield bytes(chunk)
                        chunk.clear()
                yield bytes(chunk)


def _connection_class(errors: ConnectErrors) -> type[Connection[Row]]:
    class ReportingConnection(Connection[Row]):
        @classmethod
        def connect(cls, *args: Any, **kwargs: Any) -> Any:
            try:
                return super().connect(*args, **kwargs)
            except psycopg.Error as error:
                errors.on_failure(error)
                raise

    return ReportingConnection


def _check_connection(connection: Connection[Row]) -> None:
    """Have the pool replace a connection that broke while idle."""
    if is_broken(connection):
        raise psycopg.OperationalError("the connection has ended")


def _connection_options(application_name: str) -> dict[str, Any]:
    return {
        "autocommit": True,
        "row_factory": dict_row,
        "application_name": application_name,
        "connect_timeout": 2,
        # Plans are never reused, and a pooler in transaction mode does not support prepared statements.
        "prepare_threshold": None,
        **KEEPALIVE_OPTIONS,
    }


@contextmanager
def _read_only_transaction(connection: Connection[Any], statement_timeout_ms: int) -> Iterator[None]:
    connection.read_only = True
    with connection.transaction():
        connection.execute(_CONFIGURE, {"statement_timeout_ms": str(statement_timeout_ms), "role": ROLE})
        yield
