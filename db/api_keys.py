"""API keys. Only their hashes are stored."""

from dataclasses import dataclass
from datetime import datetime

import psycopg

from db import queries
from db.database import Database, connect

_SQL = queries.load("api_keys.sql")
_APPLICATION = "keys"


@dataclass(frozen=True)
class ListedKey:
    """A key without its hash. `revoked_at` is None while it is valid."""

    name: str
    role: str
    created_at: datetime
    revoked_at: datetime | None


@dataclass(frozen=True)
class StoredKey:
    """A key with its SHA-256 in hexadecimal, to authenticate requests."""

    key_hash: str
    name: str
    role: str
    is_valid: bool


def add(url: str, key_hash: str, name: str, role: str) -> bool:
    """Store a key. Return False when a valid key has this name."""
    with connect(url, _APPLICATION) as connection:
        parameters = {"key_hash": key_hash, "name": name, "role": role}
        return connection.execute(_SQL["add"], parameters).rowcount == 1


def revoke(url: str, name: str) -> bool:
    """Revoke a key. Return False when no valid key has this name."""
    with connect(url, _APPLICATION) as connection:
        return connection.execute(_SQL["revoke"], {"name": name}).rowcount == 1


def list_keys(url: str) -> list[ListedKey]:
    """Return all keys, including revoked ones, oldest first."""
    with connect(url, _APPLICATION) as connection:
        return [ListedKey(**row) for row in connection.execute(_SQL["list"]).fetchall()]


def exists(url: str) -> bool:
    """Return whether there is a valid key. False before the migrations are applied."""
    with connect(url, _APPLICATION) as connection:
        try:
            row = connection.execute(_SQL["exists"]).fetchone()
        except (psycopg.errors.UndefinedFunction, psycopg.errors.UndefinedTable):
            return False
        return row is not None and bool(row["found"])


def load_stored_keys(url: str) -> list[StoredKey]:
    """Return all keys, including revoked ones, with their hashes."""
    with connect(url, _APPLICATION) as connection:
        return [StoredKey(**row) for row in connection.execute(_SQL["list_with_hashes"]).fetchall()]


async def fetch_stored_keys(database: Database) -> list[StoredKey]:
    """Return all keys, including revoked ones, with their hashes."""
    return [StoredKey(**row) for row in await database.fetch_all(_SQL["list_with_hashes"])]
