"""Who looks at a page of ours: asked of the API, which knows the keys, and remembered for a moment.

For the parts that have pages and no keys of their own, the dashboard and the load tests.
"""

from collections.abc import Callable
from time import monotonic

from orchestrator.errors import ServiceUnavailable
from orchestrator.security.key_hashing import Role, hashed

FRESH_SECONDS = 2.0
GRACE_SECONDS = 30.0
"""How long who was known stays known while the API does not answer: it may just be started again."""

AWAY_SECONDS = 1.0
"""How long an API that did not answer is not asked again."""

MAX_REMEMBERED = 1_000

Ask = Callable[[str | None], Role | None]
"""Asks the API what a key is good for; None without one it knows. Raises ServiceUnavailable."""


class RoleCache:
    """Safe to share between threads."""

    def __init__(self, ask: Ask, *, must_have_key: bool) -> None:
        """`must_have_key`: nobody is let in without a key, whatever the API says."""
        self._ask = ask
        self._must_have_key = must_have_key
        self._seen: dict[str, tuple[Role | None, float]] = {}
        self._away_at = float("-inf")

    def role_of(self, key: str | None) -> Role | None:
        """What the holder of this key (None: of no key) may do, or None. Raises ServiceUnavailable when it is not
        known and the API does not answer."""
        if key is None and self._must_have_key:
            return None
        name = "" if key is None else hashed(key)
        role, at = self._seen.get(name, (None, float("-inf")))
        if monotonic() - at <= FRESH_SECONDS:
            return role
        try:
            role = self._answer(key)
        except ServiceUnavailable:
            # Where no key was needed none can have been made since by asking the same API.
            if monotonic() - at <= GRACE_SECONDS or (key is None and role is not None):
                return role
            raise
        if len(self._seen) >= MAX_REMEMBERED:
            self._seen.clear()
        self._seen[name] = role, monotonic()
        return role

    def _answer(self, key: str | None) -> Role | None:
        if monotonic() - self._away_at <= AWAY_SECONDS:
            raise ServiceUnavailable("the API does not answer")
        try:
            return self._ask(key)
        except ServiceUnavailable:
            # One page is many requests, and none of them should wait for the same silence again.
            self._away_at = monotonic()
            raise
