"""The active fault profile."""

from dataclasses import dataclass
from datetime import datetime

from psycopg.types.json import Jsonb

from db import queries
from db.database import Database, Row

_SQL = queries.load("fault_profiles.sql")


@dataclass(frozen=True)
class FaultChange:
    profile: str
    seed: int
    rates: Row
    at: datetime


async def current(database: Database) -> FaultChange | None:
    """Return the newest change, or None when there is none."""
    row = await database.fetch_one(_SQL["current_faults"])
    return FaultChange(**row) if row else None


async def record(database: Database, profile: str, seed: int, rates: Row) -> FaultChange:
    row = await database.fetch_one(
        _SQL["set_faults"], {"profile": profile, "seed": seed, "rates": Jsonb(rates)}
    )
    assert row is not None, "insert ... returning returns a row"
    return FaultChange(**row)
