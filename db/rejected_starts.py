"""The starts that admission control rejected. They are no orders, so only their number is stored."""

from db import queries
from db.database import Database

_SQL = queries.load("rejected_starts.sql")


async def record(database: Database, starts: int) -> None:
    """Add the starts to those of the current second, also of other API processes. Raises DatabaseError."""
    await database.execute(_SQL["record"], {"starts": starts})
