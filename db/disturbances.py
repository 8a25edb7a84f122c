"""Records kills, pauses, stops and restarts of components, for the charts."""

import time
from datetime import datetime

from db import queries
from db.database import connect
from db.errors import DatabaseError

_SQL = queries.load("disturbances.sql")

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
    """Store one disturbance. Retries for `time_budget_seconds`, since the disturbance may have hit
    PostgreSQL; then raises DatabaseError."""
    retry_until = time.monotonic() + time_budget_seconds
    parameters = {"at": at, "component": component, "action": action, "run_id": run_id}
    while True:
        try:
            with connect(url, "disturbances") as connection:
                connection.execute(_SQL["record"], parameters)
        except DatabaseError:
            if time.monotonic() > retry_until:
                raise
            time.sleep(RETRY_SECONDS)
        else:
            return
