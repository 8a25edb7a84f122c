"""Version, schema and clock of PostgreSQL."""

from collections.abc import Callable, Iterator
from time import time

from db.database import MIN_SERVER_VERSION
from db.maintenance.diagnostics import ServerState, server_state
from orchestrator.settings import Settings
from orchestrator.startup.findings import Finding, clock_findings


async def check_database(settings: Settings, clock: Callable[[], float] = time) -> list[Finding]:
    """Raises DatabaseError if the database is unavailable."""
    state = await server_state(settings.order_database_url, clock)
    return list(database_findings(state, is_embedded=settings.uses_embedded_postgres))


def database_findings(state: ServerState, *, is_embedded: bool) -> Iterator[Finding]:
    yield from version_findings(state)
    if state.pending_migrations:
        yield Finding(
            "migrations-pending",
            f"{len(state.pending_migrations)} migrations are not applied: "
            f"{', '.join(state.pending_migrations)}.",
            "Apply them: make down, then make up."
            if is_embedded
            else "Apply them as the owner of the tables: orders migrate.",
        )
    yield from clock_findings("clock-database", "The database's clock", state.clock_ahead_seconds)


def version_findings(state: ServerState) -> Iterator[Finding]:
    """The findings that no migration can correct."""
    if state.version < MIN_SERVER_VERSION:
        yield Finding(
            "database-old",
            f"PostgreSQL is {state.version_text}; {MIN_SERVER_VERSION // 10000} or newer is required.",
            "Upgrade that server, or unset DATABASE_URL to use the embedded one.",
        )
    if state.unknown_migrations:
        yield Finding(
            "migrations-unknown",
            f"The database has migrations of a newer release: {', '.join(state.unknown_migrations)}.",
            "Run that release.",
        )
