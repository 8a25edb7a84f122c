"""The screens' own way into the books: read-only, and never for long.

Synchronous, because a Streamlit page is. Writers and the API have a pool of their own (`db.database`).
"""

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import LiteralString

import psycopg
from psycopg import Connection, sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import dict_row
from psycopg_pool import ConnectionPool

from db.database import ACQUIRE_TIMEOUT_SECONDS, LOST_IN_SILENCE, Row, has_ended, translate_errors
from orchestrator.errors import DatabaseUnavailable, RequestMalformed, StatementTimeout
from orchestrator.settings import Settings

ROLE = "orders_reader"
STATEMENT_TIMEOUT_MS = 2_000
EXPORT_TIMEOUT_MS = 900_000
MAX_CONNECTIONS = 4
REMEMBERED_TIMES = 500

PIECE_BYTES = 128 * 1024
"""How much of an answer in CSV is handed on at once. PostgreSQL sends one row at a time, and handing on a row
costs more than reading it."""

_OPTIONS = {
    "default_transaction_read_only": "on",
    "idle_in_transaction_session_timeout": "60000",
    # Times are told in the session's zone, and a chart draws the hour that it is told, whatever its offset.
    "timezone": "UTC",
    # A filter that is not set must vanish from the plan, and compiling costs more than these queries take.
    "plan_cache_mode": "force_custom_plan",
    "jit": "off",
    # A screen must not take a second core from those who do the work.
    "max_parallel_workers_per_gather": "0",
    "work_mem": "32MB",
}


class ReadOnlyDatabase:
    """A small pool of read-only connections. Remembers how long its last readings took.

    Every method raises DatabaseUnavailable when PostgreSQL does not answer, StatementTimeout when a statement runs into
    its timeout, and RequestMalformed for a text that PostgreSQL cannot hold. Closed by `close`.
    """

    def __init__(self, conninfo: str) -> None:
        self._conninfo = conninfo
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
            check=_refuse_ended,
        )
        self.times_ms: deque[float] = deque(maxlen=REMEMBERED_TIMES)
        """How long the last readings took, the answer's way included, in milliseconds; a reading that failed
        counts with the time after which it was given up."""

        self.has_last_failed = False
        """Whether the newest reading failed."""

    @classmethod
    def of(cls, settings: Settings) -> "ReadOnlyDatabase":
        """Reads as the role `orders_reader`: over DATABASE_READER_URL if that is set, else over the URL of
        the books, where a server that has no such role is read as the user of that URL."""
        if settings.database_reader_url is not None:
            return cls(settings.database_reader_url)
        if settings.uses_embedded_postgres:
            return cls(make_conninfo(settings.order_database_url, user=ROLE))
        return cls(_as_role_if_there(settings.order_database_url))

    def close(self) -> None:
        self._pool.close(timeout=2)

    def fetch_all(self, statement: LiteralString, parameters: Row | None = None) -> list[Row]:
        began = perf_counter()
        has_failed = True
        try:
            with _reading_errors(), self._connection() as connection:
                rows = connection.execute(statement, parameters).fetchall()
            has_failed = False
        finally:
            self.times_ms.append((perf_counter() - began) * 1000)
            self.has_last_failed = has_failed
        return rows

    def fetch_one(self, statement: LiteralString, parameters: Row | None = None) -> Row | None:
        rows = self.fetch_all(statement, parameters)
        return rows[0] if rows else None

    @contextmanager
    def _connection(self) -> Iterator[Connection[Row]]:
        # Opened by the first who reads: an export has a connection of its own.
        self._pool.open(wait=False)
        with self._pool.connection() as connection:
            yield connection

    def copy_out(self, query: LiteralString, parameters: Row) -> Iterator[bytes]:
        """The answer as CSV with a header, in pieces of about PIECE_BYTES, whatever its size. Uses a
        connection of its own."""
        with (
            _reading_errors(),
            psycopg.connect(
                _with_options(self._conninfo, EXPORT_TIMEOUT_MS),
                autocommit=True,
                connect_timeout=2,
                application_name="dashboard-export",
            ) as connection,
            psycopg.ClientCursor(connection) as cursor,
        ):
            # COPY takes no parameters from the protocol; the client cursor quotes them into the text.
            chosen = sql.SQL(cursor.mogrify(query, parameters))
            with cursor.copy(sql.SQL("copy ({}) to stdout (format csv, header)").format(chosen)) as copy:
                held = bytearray()
                for row in copy:
                    held += row
                    if len(held) >= PIECE_BYTES:
                        yield bytes(held)
                        held.clear()
                yield bytes(held)


def _refuse_ended(connection: Connection[Row]) -> None:
    """Has the pool take another connection in place of one that has ended while it lay idle."""
    if has_ended(connection):
        raise psycopg.OperationalError("the connection has ended")


def _with_options(conninfo: str, statement_timeout_ms: int) -> str:
    options = _OPTIONS | {"statement_timeout": str(statement_timeout_ms)}
    given = conninfo_to_dict(conninfo).get("options") or ""
    text = " ".join(f"-c {name}={value}" for name, value in options.items())
    return make_conninfo(conninfo, **LOST_IN_SILENCE, options=f"{given} {text}".strip())


def _as_role_if_there(url: str) -> str:
    given = conninfo_to_dict(url).get("options") or ""
    as_role = make_conninfo(url, options=f"{given} -c role={ROLE}".strip())
    try:
        psycopg.connect(as_role, connect_timeout=2).close()
    except psycopg.OperationalError as error:
        # A server that is away has no such code; it may have the role once it is back.
        return url if error.sqlstate in ("22023", "42501", "28000") else as_role
    return as_role


@contextmanager
def _reading_errors() -> Iterator[None]:
    try:
        with translate_errors():
            yield
    except psycopg.DataError as error:
        raise RequestMalformed("The database cannot look for such a text.") from error
    except DatabaseUnavailable as error:
        if isinstance(error.__cause__, psycopg.errors.QueryCanceled):
            raise StatementTimeout from error.__cause__
        raise
