"""Connection pool to the order database."""

import asyncio
import select
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, LiteralString, TypeVar

import psycopg
from psycopg import AsyncConnection, sql
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool

from db.errors import DatabaseError, DatabaseUnavailable, PoolExhausted, TransactionConflict, ValueRejected
from db.sqlstate import error_class_of, translate_errors

Row = dict[str, Any]
Connection = AsyncConnection[Row]
T = TypeVar("T")

POOL_SIZE = 8
"""Default maximum of connections per process."""

ACQUIRE_TIMEOUT_SECONDS = 1.0
"""Maximum wait for a connection. The API can then still send 503 within 2 s."""

MAX_WAITING = 200
"""Maximum number of callers that wait for a connection."""

IDLE_SECONDS = 60.0
"""Idle time after which connections above the minimum are closed: each uses some MB on the server."""

MIN_SERVER_VERSION = 150000
"""The oldest PostgreSQL that the statements and migrations run on, as in the setting server_version_num."""

CHUNK_BYTES = 128 * 1024
"""Chunk size of CSV exports. PostgreSQL sends single rows; yielding each one costs more than reading it."""

PREPARE_THRESHOLD = 2
"""Number of executions on a connection before a statement is prepared."""

CLOSE_SECONDS = 2.0
CONNECT_TIMEOUT_SECONDS = 3

CONFLICT_ATTEMPTS = 3
"""Maximum number of executions of a statement that fails with a deadlock or a serialization failure."""

DEAD_PEER_SECONDS = 4
"""Time without an acknowledgement after which a connection counts as lost. After a network failure, Linux
would by default keep a connection open for about 15 minutes."""

KEEPALIVE_OPTIONS = {
    "keepalives": 1,
    "keepalives_idle": 2,
    "keepalives_interval": 1,
    "keepalives_count": DEAD_PEER_SECONDS - 2,
    "tcp_user_timeout": DEAD_PEER_SECONDS * 1000,
}
"""libpq options that detect a lost server. `_CONFIGURE` sets the same on the server, to detect a
lost client: until then, the client's transaction holds its locks."""

_CONFIGURE: LiteralString = """
select pg_backend_pid() as server_pid,
    set_config('tcp_keepalives_idle', '2', false), set_config('tcp_keepalives_interval', '1', false),
    set_config('tcp_keepalives_count', %(count)s, false), set_config('tcp_user_timeout', %(timeout)s, false)
"""

# After five executions, PostgreSQL may switch to a generic plan, which does not depend on how many orders the
# parameters select. Its nested loops are slow for a report over 100,000 orders. With the default
# random_page_cost of 4, the planner reads all events sequentially to find those of one run.
_CONFIGURE_REPORT: LiteralString = (
    "select set_config('work_mem', %(work_mem)s, true),"
    " set_config('plan_cache_mode', 'force_custom_plan', true),"
    " set_config('random_page_cost', '1.1', true)"
)


class ConnectErrors:
    """Stores the error of a pool's last connection attempt. psycopg_pool only logs it, and raises PoolTimeout
    both when all connections are in use and when none can be opened."""

    def __init__(self) -> None:
        self._last: psycopg.Error | None = None

    def on_failure(self, error: psycopg.Error) -> None:
        self._last = error

    def on_success(self) -> None:
        self._last = None

    def explain(self, pool_size: int) -> DatabaseError | ValueRejected:
        """Return the error to raise when a pool of `pool_size` connections could not provide one."""
        if self._last is None:
            return PoolExhausted() if pool_size > 0 else DatabaseUnavailable()
        return (error_class_of(self._last) or DatabaseUnavailable)()


class Database:
    """A pool of connections. Each statement is its own transaction.

    A statement that fails with a deadlock or a serialization failure is run up to CONFLICT_ATTEMPTS times.
    Raises ValueRejected and the subclasses of DatabaseError (`db.errors`). Other errors of psycopg are bugs.

    `prepares_statements` None: yes, except through a connection pooler, which may give each transaction
    another connection.
    """

    def __init__(
        self,
        url: str,
        *,
        max_size: int = POOL_SIZE,
        application_name: str = "orders",
        prepares_statements: bool | None = None,
    ) -> None:
        self._url = url
        self._prepares_statements = prepares_statements
        self._max_size = max_size
        self._application_name = application_name
        self._connect_errors = ConnectErrors()
        self._pool = self._new_pool()
        self._closing: set[asyncio.Task[None]] = set()

    def _new_pool(self) -> AsyncConnectionPool[Connection]:
        return AsyncConnectionPool(
            self._url,
            min_size=1,
            max_size=self._max_size,
            open=False,
            timeout=ACQUIRE_TIMEOUT_SECONDS,
            max_waiting=MAX_WAITING,
            max_idle=IDLE_SECONDS,
            # After this time the pool stops retrying, and the next caller starts a new attempt. With a longer
            # time, the delay between two attempts would grow.
            reconnect_timeout=1.0,
            connection_class=_connection_class(self._connect_errors),
            configure=self._configure,
            kwargs={
                "autocommit": True,
                "row_factory": dict_row,
                "prepare_threshold": None,
                "application_name": self._application_name,
                "connect_timeout": 2,
                **KEEPALIVE_OPTIONS,
            },
        )

    async def __aenter__(self) -> "Database":
        await self._pool.open(wait=False)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._pool.close(timeout=CLOSE_SECONDS)
        await asyncio.gather(*self._closing)

    async def ping(self) -> None:
        """Raise DatabaseError unless the database responds."""
        await self.fetch_one("select 1")

    async def fetch_all(
        self, statement: LiteralString, parameters: Row | None = None, *, work_mem_mb: int | None = None
    ) -> list[Row]:
        """Return all rows. With `work_mem_mb`, for reports over many rows, the statement is planned for these
        parameters, and each sort and hash table may use this memory."""

        async def fetch(connection: Connection) -> list[Row]:
            if work_mem_mb is None:
                return await (await connection.execute(statement, parameters)).fetchall()
            async with connection.transaction():
                await connection.execute(_CONFIGURE_REPORT, {"work_mem": f"{work_mem_mb}MB"})
                return await (await connection.execute(statement, parameters)).fetchall()

        return await self._run(fetch)

    async def fetch_one(self, statement: LiteralString, parameters: Row | None = None) -> Row | None:
        """Return the first row, or None if there is none."""

        async def fetch(connection: Connection) -> Row | None:
            return await (await connection.execute(statement, parameters)).fetchone()

        return await self._run(fetch)

    async def execute(self, statement: LiteralString, parameters: Row | None = None) -> int:
        """Return the number of affected rows."""

        async def execute(connection: Connection) -> int:
            return (await connection.execute(statement, parameters)).rowcount

        return await self._run(execute)

    async def copy_csv(
        self, query: LiteralString, parameters: Row | None = None
    ) -> AsyncGenerator[bytes, None]:
        """Yield the result as CSV with a header, in chunks of about CHUNK_BYTES."""
        async with self._connection() as connection, psycopg.AsyncClientCursor(connection) as cursor:
            # COPY accepts no bound parameters; the client cursor quotes them into the text.
            bound = sql.SQL(cursor.mogrify(query, parameters))
            async with cursor.copy(sql.SQL("copy ({}) to stdout (format csv, header)").format(bound)) as copy:
                chunk = bytearray()
                async for row in copy:
                    chunk += row
                    if len(chunk) >= CHUNK_BYTES:
                        yield bytes(chunk)
                        chunk.clear()
                yield bytes(chunk)

    async def _run(self, statement: Callable[[Connection], Awaitable[T]]) -> T:
        for _ in range(CONFLICT_ATTEMPTS - 1):
            try:
                async with self._connection() as connection:
                    return await statement(connection)
            except TransactionConflict:
                # PostgreSQL has rolled the statement back.
                continue
        async with self._connection() as connection:
            return await statement(connection)

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Connection]:
        pool = self._pool
        try:
            with translate_errors():
                connection = await _get_live_connection(pool)
        except PoolExhausted as error:
            stats = pool.get_stats()
            await self._replace_blocked_pool(pool, stats)
            raise self._connect_errors.explain(stats.get("pool_size", 0)) from error.__cause__
        try:
            with translate_errors():
                yield connection
        finally:
            # The pool rolls back an open transaction.
            await pool.putconn(connection)

    async def _configure(self, connection: Connection) -> None:
        self._connect_errors.on_success()
        parameters = {"count": str(DEAD_PEER_SECONDS - 2), "timeout": str(DEAD_PEER_SECONDS * 1000)}
        row = await (await connection.execute(_CONFIGURE, parameters)).fetchone()
        # A connection pooler reports a process id of its own, not the one of the server process.
        is_direct = row is not None and row["server_pid"] == connection.info.backend_pid
        prepares = is_direct if self._prepares_statements is None else self._prepares_statements
        connection.prepare_threshold = PREPARE_THRESHOLD if prepares else None

    async def _replace_blocked_pool(
        self, pool: AsyncConnectionPool[Connection], stats: dict[str, int]
    ) -> None:
        """Replace a pool that has no connection and a full queue, because it cannot recover.

        psycopg_pool removes a caller that timed out from its queue only when a connection becomes available.
        So the queue fills up while PostgreSQL is unavailable. A full queue rejects callers before the pool
        tries to connect.
        """
        is_blocked = stats.get("pool_size", 0) == 0 and stats.get("requests_waiting", 0) >= MAX_WAITING
        if pool is self._pool and is_blocked:
            self._pool = self._new_pool()
            await self._pool.open(wait=False)
            closing = asyncio.create_task(pool.close(timeout=CLOSE_SECONDS))
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)


@contextmanager
def connect(url: str, application_name: str) -> Iterator[psycopg.Connection[Row]]:
    """Open one synchronous connection, for commands and load tests. Raises DatabaseError."""
    with (
        translate_errors(),
        psycopg.connect(
            url,
            autocommit=True,
            row_factory=dict_row,
            connect_timeout=CONNECT_TIMEOUT_SECONDS,
            application_name=application_name,
            # A pooler in transaction mode does not support prepared statements.
            prepare_threshold=None,
        ) as connection,
    ):
        yield connection


def _connection_class(errors: ConnectErrors) -> type[Connection]:

    class ReportingConnection(AsyncConnection[Row]):
        @classmethod
        async def connect(cls, *args: Any, **kwargs: Any) -> Any:
            try:
                return await super().connect(*args, **kwargs)
            except psycopg.Error as error:
                errors.on_failure(error)
                raise

    return ReportingConnection


async def _get_live_connection(pool: AsyncConnectionPool[Connection]) -> Connection:
    """Return a connection that is not broken. After a restart of PostgreSQL all idle connections are broken,
    and each would fail one statement."""
    while True:
        connection = await pool.getconn()
        if not is_broken(connection):
            return connection
        await connection.close()
        await pool.putconn(connection)


def is_broken(connection: psycopg.Connection[Any] | AsyncConnection[Any]) -> bool:
    """Return whether the server has closed an idle connection, without a network round trip: an idle
    connection becomes readable only when it is closed."""
    if connection.closed:
        return True
    idle = select.poll()
    idle.register(connection.fileno(), select.POLLIN)
    return bool(idle.poll(0))
