"""A key for Temporal's UI, which has no place for one: given here once, and kept for a cookie.

The UI's pages send the cookie along once its users switch on "include cross-origin credentials" beside the
codec's address. It counts for the codec alone, and only where a page of the UI asks.
"""

from collections.abc import Sequence
from html import escape
from urllib.parse import parse_qs

from fastapi import APIRouter, Request
from starlette.datastructures import Headers
from starlette.responses import HTMLResponse
from starlette.types import Scope

from orchestrator.security.key_hashing import Role
from orchestrator.security.sessions import MAX_FORM_BYTES, Sessions, cookies_of

CODEC = "/codec"
LOGIN = f"{CODEC}/login"
COOKIE = "orders_codec"

_FORM = (
    f"<form method='post' action='{LOGIN}'><label>API key of role operator "
    "<input name='key' type='password' autocomplete='off' required></label> <button>Give</button></form>"
)

router = APIRouter(include_in_schema=False)


class UiKeys:
    """Whose key a request of a page of Temporal's UI comes with."""

    def __init__(self, origins: Sequence[str]) -> None:
        self._origins = origins
        self._sessions = Sessions(COOKIE)

    def create(self, key: str) -> str:
        """Returns the cookie's value."""
        return self._sessions.create(key)

    def key_of(self, scope: Scope) -> str | None:
        if not scope["path"].startswith(CODEC) or Headers(scope=scope).get("origin") not in self._origins:
            return None
        return self._sessions.key_of(cookies_of(scope))


@router.get(LOGIN)
async def form() -> HTMLResponse:
    return _page(200, "Temporal's UI may show what is encrypted to those who give a key.", _FORM)


@router.post(LOGIN)
async def give(request: Request) -> HTMLResponse:
    if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        return _page(403, "This was sent by a page of somebody else.")
    body = await request.body()
    key = parse_qs(body[:MAX_FORM_BYTES].decode("ascii", "replace")).get("key", [""])[0].strip()
    if not key.isascii():
        return _page(401, "This key is not valid.", _FORM)
    context = request.app.state.context
    name, role = await context.keys.caller(key)
    if role is None:
        return _page(401, "This key is not valid.", _FORM)
    if name is None:
        return _page(200, "There are no keys yet, and none is needed.")
    if role < Role.OPERATOR:
        return _page(403, f"This needs a key of role operator; this one is {role.word}.", _FORM)
    answer = _page(200, "Now Temporal's UI shows it, in this browser, until the API is started again.")
    answer.set_cookie(
        COOKIE,
        context.ui_keys.create(key),
        path=CODEC,
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )
    return answer


def _page(status: int, sentence: str, below: str = "") -> HTMLResponse:
    return HTMLResponse(
        "<!doctype html><html lang='en'><meta charset='utf-8'><title>Orders: key for Temporal's UI</title>"
        f"<h1>Orders</h1><p>{escape(sentence)}</p>{below}</html>",
        status_code=status,
    )
