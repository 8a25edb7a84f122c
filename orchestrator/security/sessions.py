"""API keys that browsers have given once, by the cookie they got for it; in memory only."""

import secrets
from collections import OrderedDict
from collections.abc import Mapping
from http.cookies import CookieError, SimpleCookie

from starlette.datastructures import Headers
from starlette.types import Scope

MAX_SESSIONS = 1_000
MAX_FORM_BYTES = 4_096
"""More than any form with a key in it."""


class Sessions:
    """The latest thousand. A key is worth what it is worth now: it is to be looked up at every use."""

    def __init__(self, cookie: str) -> None:
        self.cookie = cookie
        self._keys: OrderedDict[str, str] = OrderedDict()

    def welcome(self, key: str) -> str:
        """Returns the cookie's value."""
        session = secrets.token_urlsafe(32)
        self._keys[session] = key
        while len(self._keys) > MAX_SESSIONS:
            self._keys.popitem(last=False)
        return session

    def key_of(self, cookies: Mapping[str, str]) -> str | None:
        return self._keys.get(cookies.get(self.cookie, ""))


def cookies_of(scope: Scope) -> dict[str, str]:
    """The cookies of a request; none when they cannot be read."""
    try:
        parsed = SimpleCookie(Headers(scope=scope).get("cookie", ""))
    except CookieError:
        return {}
    return {name: morsel.value for name, morsel in parsed.items()}
