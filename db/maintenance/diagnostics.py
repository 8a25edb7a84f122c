"""The state of the order database, for `orders doctor`."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from psycopg import AsyncConnection
from psycopg.rows import dict_row

from db import queries
from db.database import Row
from db.sqlstate import translate_errors

STATEMENT_TIMEOUT_MS = 1_500

_SQL = queries.load("diagnostics.sql")
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


@dataclass(frozen=True)
class DatabaseState:
    version: int
    """The setting server_version_num, for example 180004."""

    version_text: str
    response_ms: float
    connections: int
    hidden_connections: int
    """Connections of other users, whose statements this user cannot see."""

    max_connections: int
    clock_ahead_seconds: float = 0.0
    """Relative to this machine; negative if the database is behind."""

    sessions: tuple[Session, ...] = ()
    pending_migrations: tuple[str, ...] = ()
    unknown_migrations: tuple[str, ...] = ()
    overdue: int = 0
    overdue_examples: tuple[str, ...] = ()
    repeated_compensations: tuple[str, ...] = ()
    """Order ids with at least `compensation_attempts` attempts of the refund or the recall."""

    acceptance_gap_seconds: float | None = None
    """Shortest time between acceptance (Temporal's clock) and first event (the database's clock) of recent
    orders; None if there are none."""


async def database_state(
    url: str, *, compensation_attempts: int, clock: Callable[[], float]
) -> DatabaseState:
    """Return the state of the database. `clock` returns this machine's time, in seconds since the epoch.

    Raises DatabaseError, also if a statement takes longer than 1.5 s.
    """
    with translate_errors():
        async with await AsyncConnection.connect(
            url, autocommit=True, row_factory=dict_row, connect_timeout=2, application_name="doctor"
        ) as connection:

            async def rows(name: str, parameters: Row | None = None) -> list[Row]:
                return await (await connection.execute(_SQL[name], parameters)).fetchall()

            await connection.execute(f"set statement_timeout = {STATEMENT_TIMEOUT_MS}")
            sent_at, began = clock(), perf_counter()
            (server,) = await rows("server")
            response_seconds = perf_counter() - began
            # The database read its clock at some time between request and response. So the offset is between
            # these two; 0 is assumed if it is possible.
            largest_offset = server["clock"].timestamp() - sent_at
            smallest_offset = largest_offset - response_seconds
            applied = [row["version"] for row in await rows("migrations")] if server["has_migrations"] else []
            released = {path.name.split("_")[0]: path.name for path in _MIGRATIONS.glob("*.sql")}
            orders: Row = {}
            if server["has_orders"]:
                attempts = {"attempts": compensation_attempts}
                overdue = (await rows("overdue"))[0]
                orders = {
                    "overdue": overdue["orders"],
                    "overdue_examples": tuple(overdue["examples"] or ()),
                    "repeated_compensations": tuple(
                        row["order_id"] for row in await rows("repeated_compensations", attempts)
                    ),
                    "acceptance_gap_seconds": (await rows("acceptance_gap"))[0]["seconds"],
                }
            return DatabaseState(
                version=server["version"],
                version_text=server["version_text"],
                response_ms=response_seconds * 1000,
                connections=server["connections"],
                hidden_connections=server["hidden"],
                max_connections=server["max_connections"],
                clock_ahead_seconds=max(smallest_offset, 0.0) + min(largest_offset, 0.0),
                sessions=tuple(Session(**row) for row in await rows("sessions")),
                pending_migrations=tuple(
                    name for version, name in sorted(released.items()) if version not in applied
                ),
                unknown_migrations=tuple(version for version in applied if version not in released),
                **orders,
            )
