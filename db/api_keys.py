"""API keys in the books: who may do what. Only hashes are stored.

The functions for commands and for the start of a part are synchronous and open a connection of their own.
Every function raises DatabaseUnavailable when PostgreSQL does not answer.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

import psycopg
from psycopg.rows import dict_row

from db import queries
from db.database import Database, Row
from db.sqlstate import translate_errors

_SQL = queries.load("api_keys.sql")

CONNECT_SECONDS = 3


@dataclass(frozen=True)
class ListedKey:
    """A key as it may be shown. `revoked_at` is None while it works."""

    name: str
    role: str
    created_at: datetime
    revoked_at: datetime | None


@dataclass(frozen=True)
class StoredKey:
    """A key as it is compared: the SHA-256 of it, in hexadecimal."""

    key_hash: str
    name: str
    role: str
    works: bool


def add(url: str, key_hash: str, name: str, role: str) -> bool:
    """Returns False when a key of this name works already."""
    with _connected(url) as connection:
        return (
            connection.execute(_SQL["add"], {"key_hash": key_hash, "name": name, "role": role}).rowcount == 1
        )


def revoke(url: str, name: str) -> bool:
    """Returns False when there is no such key, or it was revoked before."""
    with _connected(url) as connection:
        return connection.execute(_SQL["revoke"], {"name": name}).rowcount == 1


def listed(url: str) -> list[ListedKey]:
    """Every key that there ever was, oldest first."""
    with _connected(url) as connection:
        return [ListedKey(**row) for row in connection.execute(_SQL["list"]).fetchall()]


def exists(url: str) -> bool:
    """Whether there is a key that works; there is none where the migrations have not made room for one."""
    with _connected(url) as connection:
        try:
            row = connection.execute(_SQL["exists"]).fetchone()
        except (psycopg.errors.UndefinedFunction, psycopg.errors.UndefinedTable):
            return False
        return row is not None and bool(row["found"])


def every_now(url: str) -> list[StoredKey]:
    """As `every`."""
    with _connected(url) as connection:
        return [StoredKey(**row) for row in connection.execute(_SQL["all"]).fetchall()]


async def every(database: Database) -> list[StoredKey]:
    """Every key that there ever was, to compare with."""
    return [StoredKey(**row) for row in await database.fetch_all(_SQL["all"])]


@contextmanager
def _connected(url: str) -> Iterator[psycopg.Connection[Row]]:
    with (
        translate_errors(),
        psycopg.connect(
            url,
            autocommit=True,
            row_factory=dict_row,
            connect_timeout=CONNECT_SECONDS,
            application_name="keys",
        ) as connection,
    ):
        yield connection
