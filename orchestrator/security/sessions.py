"""Sessions of signed-in browsers: session tokens and the API keys they stand for, in memory only."""

import secrets
from collections import OrderedDict
from http.cookies import CookieError, SimpleCookie

from starlette.datastructures import Headers
from starlette.types import Scope

MAX_SESSIONS = 1_000
MAX_FORM_BYTES = 4_096
"""Maximum size of a login form. A form with an API key is much smaller."""


class Sessions:
    """At most MAX_SESSIONS API keys by session token. A new session evicts the oldest one.

    A session does not prove that its key is still valid: callers check the key at every request.
    """

    def __init__(self) -> None:
        self._keys: OrderedDict[str, str] = OrderedDict()

    def create(self, key: str) -> str:
        """Store an API key in a new session and return the session token, for the cookie."""
        token = secrets.token_urlsafe(32)
        self._keys[token] = key
        while len(self._keys) > MAX_SESSIONS:
            self._keys.popitem(last=False)
        return token

    def api_key(self, token: str | None) -> str | None:
        """Return the API key of the session with this token; None without a session."""
        return self._keys.get(token or "")


def cookies_of(scope: Scope) -> dict[str, str]:
    """Return the cookies of an ASGI request; {} when the Cookie header is malformed."""
    try:
        parsed = SimpleCookie(Headers(scope=scope).get("cookie", ""))
    except CookieError:
        return {}
    return {name: morsel.value for name, morsel in parsed.items()}
