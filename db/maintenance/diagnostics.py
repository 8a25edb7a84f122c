"""What the doctor asks of the database, over one connection of its own."""

from dataclasses import dataclass
from datetime import datetime
from time import perf_counter

from psycopg import AsyncConnection
from psycopg.rows import dict_row

from db import queries
from db.database import Row
from db.sqlstate import translate_errors

_SQL = queries.load("diagnostics.sql")

STATEMENT_TIMEOUT_MS = 1_500


@dataclass(frozen=True)
class DatabaseLook:
    """`clock` was read when this process's clock stood between `asked_at` and `answer_ms` later.

    `orders` holds what is asked of the books themselves; None before the first migration.
    """

    answer_ms: float
    server: Row
    sessions: list[Row]
    migrations: list[str]
    days_ahead: float | None
    overdue: Row | None
    stuck_undoing: list[str]
    acceptance_gap_seconds: float | None

    @property
    def clock(self) -> datetime:
        at: datetime = self.server["clock"]
        return at


async def look(url: str, *, undo_tries: int) -> DatabaseLook:
    """Raises DatabaseUnavailable when the database does not answer, or a statement takes longer than 1.5 s."""
    with translate_errors():
        async with await AsyncConnection.connect(
            url,
            autocommit=True,
            row_factory=dict_row,
            connect_timeout=2,
            application_name="doctor",
        ) as connection:

            async def rows(name: str, parameters: Row | None = None) -> list[Row]:
                return await (await connection.execute(_SQL[name], parameters)).fetchall()

            await connection.execute(f"set statement_timeout = {STATEMENT_TIMEOUT_MS}")
            began = perf_counter()
            (server,) = await rows("server")
            answer_ms = (perf_counter() - began) * 1000
            sessions = await rows("sessions")
            migrations = (
                [row["version"] for row in await rows("migrations")] if server["has_migrations"] else []
            )
            if not server["has_partitions"]:
                return DatabaseLook(answer_ms, server, sessions, migrations, None, None, [], None)
            return DatabaseLook(
                answer_ms=answer_ms,
                server=server,
                sessions=sessions,
                migrations=migrations,
                days_ahead=(await rows("days_ahead"))[0]["days"],
                overdue=(await rows("overdue"))[0],
                stuck_undoing=[row["order_id"] for row in await rows("stuck_undoing", {"tries": undo_tries})],
                acceptance_gap_seconds=(await rows("acceptance_gap"))[0]["seconds"],
            )
