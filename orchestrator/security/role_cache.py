"""Roles of API keys, looked up at the API: for the dashboard and the load test page, which store no keys."""

from collections.abc import Callable
from time import monotonic

from orchestrator.errors import NotAllowed, ServiceUnavailable
from orchestrator.rest_client import CertificateRejected, RestClient
from orchestrator.security.key_hashing import Role, hash_key

FRESH_SECONDS = 2.0
GRACE_SECONDS = 30.0
"""How long a role stays valid while the API is not responding, for example during its restart."""

RETRY_SECONDS = 1.0
"""Time after a failed call in which the API is not called."""

LOOK_UP_SECONDS = 1.0
MAX_ENTRIES = 1_000

LookUp = Callable[[str | None], Role | None]


def look_up_role(api_url: str, api_key: str | None) -> Role | None:
    """Return the role of a key, or None when it is missing or invalid. Raises ServiceUnavailable."""
    with RestClient(
        api_url, api_key, connect_seconds=LOOK_UP_SECONDS, read_seconds=LOOK_UP_SECONDS
    ) as client:
        try:
            return client.role()
        except NotAllowed:
            return None


def sign_in_unavailable(error: ServiceUnavailable) -> str:
    """Return the message of a page that could not look up the role of a key."""
    if isinstance(error, CertificateRejected):
        return f"Sign-in is unavailable: {error}."
    return "Sign-in is unavailable: the API is not responding. Try again shortly."


class RoleCache:
    """Caches roles by key. Safe to share between threads."""

    def __init__(self, look_up: LookUp, *, key_required: bool) -> None:
        """With `key_required`, a request without a key has no role, even while the API needs no keys."""
        self._look_up = look_up
        self._key_required = key_required
        self._entries: dict[str, tuple[Role | None, float]] = {}
        self._failed_at = float("-inf")
        self._failure = ServiceUnavailable()

    def role_of(self, key: str | None) -> Role | None:
        """Return the role of a key (None: no key), or None without access.

        Raises ServiceUnavailable when the role is unknown and the API is not responding.
        """
        if key is None and self._key_required:
            return None
        name = "" if key is None else hash_key(key)
        role, cached_at = self._entries.get(name, (None, float("-inf")))
        if monotonic() - cached_at <= FRESH_SECONDS:
            return role
        try:
            role = self._call_api(key)
        except ServiceUnavailable:
            # Access without a key does not expire: pages get their data from the same API, which checks
            # again.
            if monotonic() - cached_at <= GRACE_SECONDS or (key is None and role is not None):
                return role
            raise
        if len(self._entries) >= MAX_ENTRIES:
            self._entries.clear()
        self._entries[name] = role, monotonic()
        return role

    def _call_api(self, key: str | None) -> Role | None:
        if monotonic() - self._failed_at <= RETRY_SECONDS:
            raise type(self._failure)(str(self._failure))
        try:
            return self._look_up(key)
        except ServiceUnavailable as error:
            # A page consists of many requests, which must not wait for one timeout each.
            self._failed_at, self._failure = monotonic(), error
            raise
