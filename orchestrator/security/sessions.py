"""Sessions of signed-in browsers: session tokens and their API keys, in memory only."""

import secrets
from collections import OrderedDict
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from time import monotonic

from starlette.datastructures import Headers
from starlette.types import Scope

MAX_SESSIONS = 1_000
MAX_AGE_SECONDS = 12 * 3600.0
MAX_IDLE_SECONDS = 3600.0
"""An open page that refreshes is not idle."""

MAX_FORM_BYTES = 4_096
"""Maximum size of a login form. A form with an API key is much smaller."""


@dataclass
class _Session:
    key: str
    created_at: float
    used_at: float

    @property
    def is_expired(self) -> bool:
        now = monotonic()
        return now - self.created_at > MAX_AGE_SECONDS or now - self.used_at > MAX_IDLE_SECONDS


class Sessions:
    """At most MAX_SESSIONS API keys by session token. A new session evicts the oldest one.

    A session ends after MAX_AGE_SECONDS, and after MAX_IDLE_SECONDS without a request. It does not prove that
    its key is still valid: callers check the key at every request.
    """

    def __init__(self) -> None:
        self._sessions: OrderedDict[str, _Session] = OrderedDict()

    def create(self, key: str) -> str:
        """Store an API key in a new session and return the session token, for the cookie."""
        token = secrets.token_urlsafe(32)
        now = monotonic()
        self._sessions[token] = _Session(key, now, now)
        while len(self._sessions) > MAX_SESSIONS:
            self._sessions.popitem(last=False)
        return token

    def api_key(self, token: str | None) -> str | None:
        """Return the API key of the session with this token, and record its use; None without a session."""
        session = self._sessions.get(token or "")
        if session is None:
            return None
        if session.is_expired:
            self.end(token)
            return None
        session.used_at = monotonic()
        return session.key

    def end(self, token: str | None) -> None:
        """End the session with this token, if there is one."""
        self._sessions.pop(token or "", None)


def cookies_of(scope: Scope) -> dict[str, str]:
    """Return the cookies of an ASGI request; {} when the Cookie header is malformed."""
    try:
        parsed = SimpleCookie(Headers(scope=scope).get("cookie", ""))
    except CookieError:
        return {}
    return {name: morsel.value for name, morsel in parsed.items()}
