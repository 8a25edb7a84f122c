"""Browser sessions: the API key that a browser has sent, by the value of its session cookie. In memory
only."""

import secrets
from collections import OrderedDict
from collections.abc import Mapping
from http.cookies import CookieError, SimpleCookie

from starlette.datastructures import Headers
from starlette.types import Scope

MAX_SESSIONS = 1_000
MAX_FORM_BYTES = 4_096
"""Larger than any login form with a key."""


class Sessions:
    """The latest 1,000 sessions. Look up the role of the key at every request: the key may be revoked."""

    def __init__(self, cookie: str) -> None:
        self.cookie = cookie
        self._keys: OrderedDict[str, str] = OrderedDict()

    def create(self, key: str) -> str:
        """Store the key in a new session and return the value of its cookie."""
        session = secrets.token_urlsafe(32)
        self._keys[session] = key
        while len(self._keys) > MAX_SESSIONS:
            self._keys.popitem(last=False)
        return session

    def key_of(self, cookies: Mapping[str, str]) -> str | None:
        return self._keys.get(cookies.get(self.cookie, ""))


def cookies_of(scope: Scope) -> dict[str, str]:
    """Return the cookies of a request; none when the header is malformed."""
    try:
        parsed = SimpleCookie(Headers(scope=scope).get("cookie", ""))
    except CookieError:
        return {}
    return {name: morsel.value for name, morsel in parsed.items()}
