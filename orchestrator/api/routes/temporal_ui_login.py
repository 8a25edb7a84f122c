"""Login for Temporal's UI, which cannot send an API key to the codec: a session cookie stands for the key.

The UI sends the cookie when its user enables "include cross-origin credentials" in the codec settings. The
cookie is valid for the codec only, and only in requests of the UI's pages.
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
    "<input name='key' type='password' autocomplete='off' required></label> <button>Sign in</button></form>"
)

router = APIRouter(include_in_schema=False)


class UiSessions:
    """Sessions of Temporal's UI."""

    def __init__(self, origins: Sequence[str]) -> None:
        self._origins = origins
        self._sessions = Sessions(COOKIE)

    def create(self, key: str) -> str:
        """Store the key in a new session and return the value of its cookie."""
        return self._sessions.create(key)

    def key_of(self, scope: Scope) -> str | None:
        """Return the key of a codec request's session, or None."""
        if not scope["path"].startswith(CODEC) or Headers(scope=scope).get("origin") not in self._origins:
            return None
        return self._sessions.key_of(cookies_of(scope))


@router.get(LOGIN)
async def form() -> HTMLResponse:
    return _page(200, "Sign in with an API key to see decrypted payloads in Temporal's UI.", _FORM)


@router.post(LOGIN)
async def login(request: Request) -> HTMLResponse:
    if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        return _page(403, "This form was sent by a page of another site.")
    body = await request.body()
    key = parse_qs(body[:MAX_FORM_BYTES].decode("ascii", "replace")).get("key", [""])[0].strip()
    if not key.isascii():
        return _page(401, "This key is not valid.", _FORM)
    context = request.app.state.context
    name, role = await context.keys.authenticate(key)
    if role is None:
        return _page(401, "This key is not valid.", _FORM)
    if name is None:
        return _page(200, "No API key exists, so none is required.")
    if role < Role.OPERATOR:
        return _page(403, f"This requires a key of role operator; this key has role {role.word}.", _FORM)
    response = _page(
        200, "Signed in: Temporal's UI shows decrypted payloads in this browser, until the API restarts."
    )
    response.set_cookie(
        COOKIE,
        context.ui_sessions.create(key),
        path=CODEC,
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )
    return response


def _page(status: int, sentence: str, form: str = "") -> HTMLResponse:
    return HTMLResponse(
        "<!doctype html><html lang='en'><meta charset='utf-8'><title>Orders: sign in for Temporal UI</title>"
        f"<h1>Orders</h1><p>{escape(sentence)}</p>{form}</html>",
        status_code=status,
    )
