"""Stored load tests for the API: list, change and delete. Raises DatabaseError."""

from db import queries
from db.database import Database, Row
from db.runs import SILENT_SECONDS

_SQL = queries.load("stored_runs.sql")


async def newest_runs(database: Database, limit: int) -> list[Row]:
    """Return the newest runs as rows of `db.read_models.stored_runs.newest_runs`."""
    return await database.fetch_all(_SQL["newest_runs"], {"run_id": None, "limit": limit})


async def find(database: Database, run_id: str) -> Row | None:
    return await database.fetch_one(_SQL["newest_runs"], {"run_id": run_id, "limit": 1})


async def change(database: Database, run_id: str, changes: Row) -> bool:
    """Change `label` (None removes it), `notes` and `is_baseline`, as far as they are in `changes`.

    A new baseline replaces the former one. Return False for an unknown run.
    """
    parameters = {
        "run_id": run_id,
        "sets_label": "label" in changes,
        "label": changes.get("label"),
        "notes": changes.get("notes"),
        "is_baseline": changes.get("is_baseline"),
    }
    return await database.fetch_one(_SQL["change_run"], parameters) is not None


async def delete(database: Database, run_id: str) -> bool | None:
    """Delete a run with its statistics and its verdict. Its orders stay.

    Return False for a run in progress, which stays, and None for an unknown run.
    """
    row = await database.fetch_one(_SQL["delete_run"], {"run_id": run_id, "silent_seconds": SILENT_SECONDS})
    return None if row is None else row["is_over"]
