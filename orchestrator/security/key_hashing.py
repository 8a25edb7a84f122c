"""API keys: made, hashed, compared, and what each role may do."""

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable
from enum import IntEnum

from db.api_keys import StoredKey

PREFIX = "ord_"
"""So that a key is known for what it is where it should not be: in a log, in a repository."""

KEY_BYTES = 32


class Role(IntEnum):
    """What a key is good for; each role may also do what the ones before it may."""

    VIEWER = 1
    """Read."""

    OPERATOR = 2
    """Start orders and ask things of them, run load tests."""

    CHAOS = 3
    """Change what the outside world does wrong, kill parts."""

    @property
    def word(self) -> str:
        return self.name.lower()

    @classmethod
    def of(cls, word: str) -> "Role":
        """Raises KeyError for anything but the name of a role in small letters."""
        return {role.word: role for role in cls}[word]


def new_key() -> str:
    """256 random bits, as text that fits into a header."""
    return PREFIX + secrets.token_urlsafe(KEY_BYTES)


def is_strong(key: str) -> bool:
    """Whether this may be one of ours: others may be guessed, and a fast hash would not protect them."""
    return re.fullmatch(PREFIX + r"[A-Za-z0-9_-]{43}", key, re.ASCII) is not None


def hashed(key: str) -> str:
    """SHA-256: fast, and enough for keys that nobody can guess."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def find(key: str, known: Iterable[StoredKey]) -> StoredKey | None:
    """The working key that this is, or None. Takes as long for a near miss as for any other."""
    wanted = hashed(key)
    found = None
    for each in known:
        if hmac.compare_digest(each.key_hash, wanted) and each.works:
            found = each
    return found
