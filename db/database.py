"""Connections to the books, and the one place where driver errors become ours."""

import asyncio
import select
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, LiteralString

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool, PoolTimeout, TooManyRequests

from orchestrator.errors import DatabaseUnavailable

Row = dict[str, Any]
Connection = AsyncConnection[Row]

POOL_SIZE = 8
"""Connections of one process, if it does not say otherwise."""

ACQUIRE_TIMEOUT_SECONDS = 1.0
"""How long a caller waits for a connection: with it the API still answers 503 in under 2 s."""

MAX_WAITING = 200
"""RoleCache that may queue for a connection before the next is turned away."""

IDLE_SECONDS = 60.0
"""How long a connection that a burst has opened outlives it: each costs the server some MB."""

CLOSE_SECONDS = 2.0

SILENT_SECONDS = 4
"""How long the other end may leave bytes or a probe unanswered until a connection counts as lost: a cable
that was pulled out ends no connection, and Linux would wait for a quarter of an hour, or for ever."""

LOST_IN_SILENCE = {
    "keepalives": 1,
    "keepalives_idle": 2,
    "keepalives_interval": 1,
    "keepalives_count": SILENT_SECONDS - 2,
    "tcp_user_timeout": SILENT_SECONDS * 1000,
}
"""For our end of a connection over TCP. The server is told the same for its end: a statement of which only
a part has reached it would hold its locks for as long as it takes this connection to be alive."""

_SERVER_LOST_IN_SILENCE = """
select set_config('tcp_keepalives_idle', '2', false), set_config('tcp_keepalives_interval', '1', false),
    set_config('tcp_keepalives_count', %(count)s, false), set_config('tcp_user_timeout', %(timeout)s, false)
"""

# A plan for any parameters reckons with one run. Over everything it would take a hundred thousand orders one
# by one; yet it looks cheaper, so that PostgreSQL turns to it once a statement has come a few times. And if a
# page out of order is taken for four times as dear as the next one, as on a disk that turns, all events there
# are would be read to find those of a run.
_SET_UP_REPORT: LiteralString = (
    "select set_config('work_mem', %(work_mem)s, true),"
    " set_config('plan_cache_mode', 'force_custom_plan', true),"
    " set_config('random_page_cost', '1.1', true)"
)


class Database:
    """A pool of connections to the books. Each statement commits by itself.

    Raises DatabaseUnavailable when PostgreSQL does not answer; other database errors are bugs and pass through.
    """

    def __init__(self, url: str, *, max_size: int = POOL_SIZE, application_name: str = "orders") -> None:
        self._url = url
        self._max_size = max_size
        self._application_name = application_name
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
            # A pool that has given up for good would need a restart; this one keeps trying, quickly.
            reconnect_timeout=1.0,
            configure=_end_in_silence_too,
            kwargs={
                "autocommit": True,
                "row_factory": dict_row,
                "prepare_threshold": 2,
                "application_name": self._application_name,
                "connect_timeout": 2,
                **LOST_IN_SILENCE,
            },
        )

    async def __aenter__(self) -> "Database":
        await self._pool.open(wait=False)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._pool.close(timeout=CLOSE_SECONDS)
        await asyncio.gather(*self._closing)

    async def fetch_all(
        self, statement: LiteralString, parameters: Row | None = None, *, work_mem_mb: int | None = None
    ) -> list[Row]:
        """With `work_mem_mb`, as a report over much: so many MB for each sort and hash table, and a plan made
        for these very parameters and a disk of today."""
        async with self._connection() as connection:
            if work_mem_mb is not None:
                async with connection.transaction():
                    await connection.execute(_SET_UP_REPORT, {"work_mem": f"{work_mem_mb}MB"})
                    return await (await connection.execute(statement, parameters)).fetchall()
            cursor = await connection.execute(statement, parameters)
            return await cursor.fetchall()

    async def fetch_one(self, statement: LiteralString, parameters: Row | None = None) -> Row | None:
        async with self._connection() as connection:
            cursor = await connection.execute(statement, parameters)
            return await cursor.fetchone()

    async def execute(self, statement: LiteralString, parameters: Row | None = None) -> int:
        """Returns the number of rows that the statement touched."""
        async with self._connection() as connection:
            return (await connection.execute(statement, parameters)).rowcount

    async def stream(
        self, statement: LiteralString, parameters: Row | None = None, *, batch: int = 1_000
    ) -> AsyncGenerator[Row, None]:
        """Rows through a server-side cursor, so that memory does not grow with the answer."""
        async with (
            self._connection() as connection,
            connection.transaction(),
            connection.cursor(name="stream") as cursor,
        ):
            cursor.itersize = batch
            await cursor.execute(statement, parameters)
            async for row in cursor:
                yield row

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Connection]:
        pool = self._pool
        try:
            with translate_errors():
                connection = await _living_connection(pool)
                try:
                    yield connection
                finally:
                    # The pool rolls back what a statement may have left open.
                    await pool.putconn(connection)
        except DatabaseUnavailable:
            await self._replace_if_choked(pool)
            raise

    async def _replace_if_choked(self, pool: AsyncConnectionPool[Connection]) -> None:
        """Takes a new pool when nobody would get a connection from this one any more.

        A caller who gives up waiting stays in the pool's queue until there is a connection to offer. While
        PostgreSQL is away the queue so fills up with the departed, and a full queue turns callers away
        before it would look for a connection: for ever, also when PostgreSQL is back.
        """
        stats = pool.get_stats()
        is_choked = stats["pool_size"] == 0 and stats["requests_waiting"] >= MAX_WAITING
        if pool is self._pool and is_choked:
            self._pool = self._new_pool()
            await self._pool.open(wait=False)
            closing = asyncio.create_task(pool.close(timeout=CLOSE_SECONDS))
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)


async def _living_connection(pool: AsyncConnectionPool[Connection]) -> Connection:
    """A connection that has not ended while it lay idle: when the server was away for a moment, all of them
    have, and each would cost a caller its statement."""
    while True:
        connection = await pool.getconn()
        if not has_ended(connection):
            return connection
        await connection.close()
        await pool.putconn(connection)


def has_ended(connection: psycopg.Connection[Any] | AsyncConnection[Any]) -> bool:
    """Asks the system alone: on an idle connection there is nothing to be read but its end."""
    if connection.closed:
        return True
    idle = select.poll()
    idle.register(connection.fileno(), select.POLLIN)
    return bool(idle.poll(0))


async def _end_in_silence_too(connection: Connection) -> None:
    await connection.execute(
        _SERVER_LOST_IN_SILENCE, {"count": str(SILENT_SECONDS - 2), "timeout": str(SILENT_SECONDS * 1000)}
    )


@contextmanager
def translate_errors() -> Iterator[None]:
    """Turns the driver's words for 'no server there' into DatabaseUnavailable."""
    try:
        yield
    except (psycopg.OperationalError, PoolTimeout, TooManyRequests) as error:
        raise DatabaseUnavailable from error
    except psycopg.InterfaceError as error:
        # A connection that broke while in use.
        raise DatabaseUnavailable from error
