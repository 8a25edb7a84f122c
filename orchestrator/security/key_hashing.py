"""API keys: creation, hashing and comparison, and the roles that a key can have."""

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable
from enum import IntEnum
from typing import TYPE_CHECKING

# Not at runtime: every start of a load test imports the roles, and the database driver takes 0.1 s.
if TYPE_CHECKING:
    from db.api_keys import StoredKey

PREFIX = "ord_"
"""Lets secret scanners recognize a key in a log or a repository."""

KEY_BYTES = 32


class Role(IntEnum):
    """Permissions of a key. Each role includes those of the roles before it."""

    VIEWER = 1
    """Read."""

    OPERATOR = 2
    """Start orders, send requests to them, run load tests."""

    CHAOS = 3
    """Change the fault profile, kill components."""

    @property
    def word(self) -> str:
        return self.name.lower()

    @classmethod
    def of(cls, word: str) -> "Role":
        """Return the role of this lower-case name. Raises KeyError for any other text."""
        return {role.word: role for role in cls}[word]


def new_key() -> str:
    """Return a new key with 256 random bits."""
    return PREFIX + secrets.token_urlsafe(KEY_BYTES)


def is_strong(key: str) -> bool:
    """Return whether a key has the format of `new_key`. SHA-256 would not protect a key that can be
    guessed."""
    return re.fullmatch(PREFIX + r"[A-Za-z0-9_-]{43}", key, re.ASCII) is not None


def is_token(key: str) -> bool:
    """Return whether a text can be sent as a bearer token (RFC 6750): no spaces, quotes or controls."""
    return re.fullmatch(r"[A-Za-z0-9._~+/=-]+", key, re.ASCII) is not None


def hash_key(key: str) -> str:
    """Return the SHA-256 of a key. A slow hash is not needed for 256 random bits."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def match_key(key: str, stored: Iterable["StoredKey"]) -> "StoredKey | None":
    """Return the valid stored key that equals `key`, or None. Compares in constant time."""
    wanted = hash_key(key)
    found = None
    for each in stored:
        if hmac.compare_digest(each.key_hash, wanted) and each.is_valid:
            found = each
    return found
