"""The state of the database server for start-up checks, and of the orders for `orders doctor`."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter, time

from psycopg import AsyncConnection
from psycopg.rows import dict_row

from db import queries
from db.database import Row
from db.runs import SILENT_SECONDS
from db.sqlstate import translate_errors

STATEMENT_TIMEOUT_MS = 1_500

_SQL = queries.load("diagnostics.sql")
_RUNS_SQL = queries.load("runs.sql")
_MIGRATIONS = Path(__file__).resolve().parents[1] / "migrations"


@dataclass(frozen=True)
class Session:
    """A session that runs a statement, or has been in an idle transaction, for more than 2 seconds."""

    pid: int
    application: str
    seconds: float
    statement: str
    is_idle: bool = False
    waits_for_lock: bool = False


@dataclass(frozen=True, kw_only=True)
class ServerState:
    """Version, clock and schema of the server, for start-up checks."""

    version: int
    """The setting server_version_num, for example 180004."""

    version_text: str
    response_ms: float = 0.0
    clock_ahead_seconds: float = 0.0
    """Relative to this machine; negative if the database is behind."""

    pending_migrations: tuple[str, ...] = ()
    unknown_migrations: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class DatabaseState(ServerState):
    connections: int
    hidden_connections: int
    """Connections of other users, whose statements this user cannot see."""

    max_connections: int
    sessions: tuple[Session, ...] = ()
    overdue: int = 0
    overdue_examples: tuple[str, ...] = ()
    repeated_compensations: tuple[str, ...] = ()
    """Order ids with at least `compensation_attempts` attempts of the refund or the recall."""

    faults_left: tuple[str, str] | None = None
    """Active fault profile and the id of the ended load test that set it."""

    acceptance_gap_seconds: float | None = None
    """Shortest time between acceptance (Temporal's clock) and first event (the database's clock) of recent
    orders; None if there are none."""


def clock_ahead(server: float, sent_at: float, received_at: float) -> float:
    """Return how many seconds a server's clock is ahead of ours; negative if it is behind.

    The server read its clock at some time between request and response. So the offset is between
    `server - received_at` and `server - sent_at`; 0 is returned if it is possible.
    """
    return max(server - received_at, 0.0) + min(server - sent_at, 0.0)


async def server_state(
    url: str, clock: Callable[[], float] = time, *, application_name: str = "startup"
) -> ServerState:
    """Return the state of the server. `clock` returns this machine's time, in seconds since the epoch.

    Raises DatabaseError, also if a statement takes longer than 1.5 s.
    """
    async with _connection(url, application_name) as connection:
        return await _server_state(connection, clock)


async def database_state(
    url: str, *, compensation_attempts: int, clock: Callable[[], float]
) -> DatabaseState:
    """Return the state of the server and of the orders. Arguments and errors are those of `server_state`."""
    async with _connection(url, "doctor") as connection:

        async def rows(name: str, parameters: Row | None = None) -> list[Row]:
            return await (await connection.execute(_SQL[name], parameters)).fetchall()

        server = await _server_state(connection, clock)
        (connections,) = await rows("connections")
        orders: Row = {}
        if connections["has_orders"]:
            attempts = {"attempts": compensation_attempts}
            overdue = (await rows("overdue"))[0]
            silent = {"silent_seconds": SILENT_SECONDS}
            left = await (await connection.execute(_RUNS_SQL["faults_left"], silent)).fetchone()
            orders = {
                "overdue": overdue["orders"],
                "faults_left": None if left is None else (left["profile"], left["run_id"]),
                "overdue_examples": tuple(overdue["examples"] or ()),
                "repeated_compensations": tuple(
                    row["order_id"] for row in await rows("repeated_compensations", attempts)
                ),
                "acceptance_gap_seconds": (await rows("acceptance_gap"))[0]["seconds"],
            }
        return DatabaseState(
            **vars(server),
            connections=connections["connections"],
            hidden_connections=connections["hidden"],
            max_connections=connections["max_connections"],
            sessions=tuple(Session(**row) for row in await rows("sessions")),
            **orders,
        )


@asynccontextmanager
async def _connection(url: str, application_name: str) -> AsyncIterator[AsyncConnection[Row]]:
    with translate_errors():
        async with (
            await AsyncConnection.connect(
                url,
                autocommit=True,
                row_factory=dict_row,
                connect_timeout=2,
                application_name=application_name,
                prepare_threshold=None,
            ) as connection,
            connection.transaction(),
        ):
            # Local, because a pooler would pass the setting of a session to other clients.
            await connection.execute(f"set local statement_timeout = {STATEMENT_TIMEOUT_MS}")
            yield connection


async def _server_state(connection: AsyncConnection[Row], clock: Callable[[], float]) -> ServerState:
    sent_at, began = clock(), perf_counter()
    server = await (await connection.execute(_SQL["server"])).fetchone()
    assert server is not None
    response_seconds = perf_counter() - began
    applied = []
    if server["has_migrations"]:
        applied = [row["version"] for row in await (await connection.execute(_SQL["migrations"])).fetchall()]
    released = {path.name.split("_")[0]: path.name for path in _MIGRATIONS.glob("*.sql")}
    return ServerState(
        version=server["version"],
        version_text=server["version_text"],
        response_ms=response_seconds * 1000,
        clock_ahead_seconds=clock_ahead(server["clock"].timestamp(), sent_at, sent_at + response_seconds),
        pending_migrations=tuple(
            name for version, name in sorted(released.items()) if version not in applied
        ),
        unknown_migrations=tuple(version for version in applied if version not in released),
    )
