"""Read-only connection pool for the dashboard, with a statement timeout.

Synchronous, because Streamlit pages are. API and workers use `db.database`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, LiteralString

import psycopg
from psycopg import Connection, sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import dict_row
from psycopg_pool import ConnectionPool

from db.database import ACQUIRE_TIMEOUT_SECONDS, CHUNK_BYTES, KEEPALIVE_OPTIONS, ConnectErrors, Row, is_broken
from db.errors import PoolExhausted, TextRejected, WrongCredentials
from db.sqlstate import error_class_of, translate_errors

ROLE = "orders_reader"
STATEMENT_TIMEOUT_MS = 2_000
EXPORT_TIMEOUT_MS = 900_000
MAX_CONNECTIONS = 4

_OPTIONS = {
    "default_transaction_read_only": "on",
    "idle_in_transaction_session_timeout": "60000",
    # Charts print the hour of a timestamp and ignore its offset.
    "timezone": "UTC",
    # A generic plan would keep the conditions of filters that are not set; JIT costs more than it saves.
    "plan_cache_mode": "force_custom_plan",
    "jit": "off",
    # The dashboard must not take a second core from API and workers.
    "max_parallel_workers_per_gather": "0",
    "work_mem": "32MB",
}


class ReadOnlyDatabase:
    """A small pool of read-only connections.

    Every method raises DatabaseError (`db.errors`), for example StatementTimeout, and TextRejected for a text
    that PostgreSQL cannot hold.
    """

    def __init__(self, conninfo: str) -> None:
        self._conninfo = conninfo
        self._connect_errors = ConnectErrors()
        self._pool: ConnectionPool[Connection[Row]] = ConnectionPool(
            _with_options(conninfo, STATEMENT_TIMEOUT_MS),
            min_size=1,
            max_size=MAX_CONNECTIONS,
            open=False,
            timeout=ACQUIRE_TIMEOUT_SECONDS,
            reconnect_timeout=1.0,
            kwargs={
                "autocommit": True,
                "row_factory": dict_row,
                "application_name": "dashboard",
                "connect_timeout": 2,
            },
            connection_class=_connection_class(self._connect_errors),
            configure=lambda _connection: self._connect_errors.on_success(),
            check=_check_connection,
        )

    def close(self) -> None:
        self._pool.close(timeout=2)

    def fetch_all(self, statement: LiteralString, parameters: Row | None = None) -> list[Row]:
        try:
            with _query_errors(), self._connection() as connection:
                return connection.execute(statement, parameters).fetchall()
        except PoolExhausted as error:
            pool_size = self._pool.get_stats().get("pool_size", 0)
            raise self._connect_errors.explain(pool_size) from error.__cause__

    def fetch_one(self, statement: LiteralString, parameters: Row | None = None) -> Row | None:
        rows = self.fetch_all(statement, parameters)
        return rows[0] if rows else None

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
            _query_errors(),
            psycopg.connect(
                _with_options(self._conninfo, EXPORT_TIMEOUT_MS),
                autocommit=True,
                connect_timeout=2,
                application_name="dashboard-export",
            ) as connection,
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


def conninfo_as_reader(url: str) -> str:
    """Return `url` with the role `orders_reader` set, or unchanged where its user cannot set that role."""
    given = conninfo_to_dict(url).get("options") or ""
    as_reader = make_conninfo(url, options=f"{given} -c role={ROLE}".strip())
    try:
        psycopg.connect(as_reader, connect_timeout=2).close()
    except psycopg.OperationalError as error:
        # While the server is unavailable, assume that it has the role.
        return url if error_class_of(error) is WrongCredentials else as_reader
    return as_reader


def _connection_class(errors: ConnectErrors) -> type[Connection[Row]]:
    class ObservedConnection(Connection[Row]):
        @classmethod
        def connect(cls, *args: Any, **kwargs: Any) -> Any:
            try:
                return super().connect(*args, **kwargs)
            except psycopg.Error as error:
                errors.on_failure(error)
                raise

    return ObservedConnection


def _check_connection(connection: Connection[Row]) -> None:
    """Have the pool replace a connection that broke while idle."""
    if is_broken(connection):
        raise psycopg.OperationalError("the connection has ended")


def _with_options(conninfo: str, statement_timeout_ms: int) -> str:
    options = _OPTIONS | {"statement_timeout": str(statement_timeout_ms)}
    given = conninfo_to_dict(conninfo).get("options") or ""
    text = " ".join(f"-c {name}={value}" for name, value in options.items())
    return make_conninfo(conninfo, **KEEPALIVE_OPTIONS, options=f"{given} {text}".strip())


@contextmanager
def _query_errors() -> Iterator[None]:
    try:
        with translate_errors():
            yield
    except psycopg.DataError as error:
        raise TextRejected from error
