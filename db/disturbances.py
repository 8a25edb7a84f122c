"""What was done to the running stack, kept for the charts. Synchronous: who does it is no service."""

import time
from datetime import datetime

import psycopg

from db import queries
from db.errors import DatabaseError
from db.sqlstate import translate_errors

_SQL = queries.load("disturbances.sql")

CONNECT_SECONDS = 3
RETRY_SECONDS = 0.25


def record(
    url: str,
    *,
    at: datetime,
    action: str,
    component: str,
    run_id: str | None = None,
    time_budget_seconds: float,
) -> None:
    """Keeps one disturbance. It may have hit PostgreSQL itself, so it is tried for so long.

    Raises DatabaseUnavailable when PostgreSQL does not answer even then.
    """
    give_up = time.monotonic() + time_budget_seconds
    while True:
        try:
            with (
                translate_errors(),
                psycopg.connect(url, autocommit=True, connect_timeout=CONNECT_SECONDS) as connection,
            ):
                parameters = {"at": at, "component": component, "action": action, "run_id": run_id}
                connection.execute(_SQL["record"], parameters)
        except DatabaseError:
            if time.monotonic() > give_up:
                raise
            time.sleep(RETRY_SECONDS)
        else:
            return
