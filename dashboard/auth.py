"""The dashboard's door: once there are API keys, nobody sees anything without one.

A viewer gives a key once and gets a cookie for it. Whatever the dashboard then asks of the API for this
viewer it asks with this key; it has none of its own. The key is checked at the API again and again, also
while a page is open: the page of a revoked one is closed within seconds.
"""

from html import escape
from time import monotonic
from urllib.parse import parse_qs

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from orchestrator.errors import ServiceUnavailable
from orchestrator.security import bind_policy, role_cache
from orchestrator.security.headers import PAGE_HEADERS, with_headers
from orchestrator.security.role_cache import RoleCache
from orchestrator.security.sessions import MAX_FORM_BYTES, Sessions, cookies_of
from orchestrator.settings import Settings

LOGIN = "/login"
OPEN_PATHS = ("/_stcore/health",)
LOOK_AGAIN_SECONDS = 2.0
RETRY_SECONDS = 5

viewers = Sessions("orders_session")
"""Of this process: the door and the pages, which Streamlit runs apart from it, both look here."""


class AuthMiddleware:
    """Lets requests and web sockets through for those whose key is good for reading."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._callers = RoleCache(
            lambda key: role_cache.look_up_role(settings.api_url, key),
            key_required=not bind_policy.is_loopback(settings.bind_address),
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        if scope["type"] == "http":
            send = with_headers(send, PAGE_HEADERS)
        if scope["path"] in OPEN_PATHS:
            await self._app(scope, receive, send)
            return
        if scope["path"] == LOGIN:
            await (await self._login(scope, receive))(scope, receive, send)
            return
        key = viewers.key_of(cookies_of(scope))
        try:
            role = await run_in_threadpool(self._callers.role_of, key)
        except ServiceUnavailable as error:
            await _turn_away(scope, receive, send, _away_page(str(error)))
            return
        if role is None:
            told = "" if key is None else "This key is not valid any more."
            await _turn_away(scope, receive, send, _login_page(401, told))
        elif key is None and not bind_policy.is_loopback_host(Headers(scope=scope).get("host")):
            await _turn_away(scope, receive, send, _page(421, bind_policy.LOOPBACK_ONLY, ""))
        elif scope["type"] == "websocket":
            await self._app(scope, receive, self._while_valid(send, key))
        else:
            await self._app(scope, receive, send)

    async def _login(self, scope: Scope, receive: Receive) -> Response:
        if scope["method"] != "POST":
            return RedirectResponse("/", 303)
        body = bytearray()
        async for piece in Request(scope, receive).stream():
            body += piece
            if len(body) > MAX_FORM_BYTES:
                return _login_page(413, "That is too long for a key.")
        key = parse_qs(body.decode("ascii", "replace")).get("key", [""])[0].strip()
        if not key.isascii() or not key.isprintable() or not key:
            return _login_page(401, "That is not a key.")
        try:
            role = await run_in_threadpool(self._callers.role_of, key)
        except ServiceUnavailable as error:
            return _login_page(503, f"{error}; try again shortly.")
        if role is None:
            return _login_page(401, "This key is not valid.")
        answer = RedirectResponse("/", 303)
        answer.set_cookie(
            viewers.cookie,
            viewers.create(key),
            httponly=True,
            samesite="strict",
            secure=scope["scheme"] == "https",
        )
        return answer

    def _while_valid(self, send: Send, key: str | None) -> Send:
        """Closes the web socket instead of sending on it once the key is no longer valid."""
        looked_at = monotonic()
        is_closed = False

        async def send_if_valid(message: Message) -> None:
            nonlocal looked_at, is_closed
            if is_closed:
                return
            if monotonic() - looked_at > LOOK_AGAIN_SECONDS:
                try:
                    role = await run_in_threadpool(self._callers.role_of, key)
                except ServiceUnavailable:
                    role = None
                if role is None:
                    is_closed = True
                    await send({"type": "websocket.close", "code": 1008})
                    return
                looked_at = monotonic()
            await send(message)

        return send_if_valid


async def _turn_away(scope: Scope, receive: Receive, send: Send, page: HTMLResponse) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})
        return
    await page(scope, receive, send)


def _away_page(sentence: str) -> HTMLResponse:
    """Nobody can tell who this is: no key helps, only another try, which the page also makes by itself."""
    # A link to nowhere else is one to this very address, its query included.
    return _page(503, f"{sentence}; is the stack up?", "<p><a href=''>Try again</a></p>", again=True)


def _login_page(status: int, sentence: str) -> HTMLResponse:
    return _page(
        status,
        sentence,
        f"<form method='post' action='{LOGIN}'>"
        "<label>API key<input name='key' type='password' autocomplete='current-password' required autofocus>"
        "</label><button>Open the dashboard</button></form>",
    )


def _page(status: int, sentence: str, below: str, *, again: bool = False) -> HTMLResponse:
    text = sentence[:1].upper() + sentence[1:]
    page = (
        "<!doctype html><html lang='en'><meta charset='utf-8'><title>Orders</title>"
        "<meta name='viewport' content='width=device-width'><meta name='color-scheme' content='light dark'>"
        "<style>body{font-family:sans-serif;margin:4em auto;max-width:26em;padding:0 1em}"
        "input,button{font:inherit;padding:.5em;width:100%;box-sizing:border-box;margin:.4em 0}</style>"
        f"{f'<meta http-equiv=refresh content={RETRY_SECONDS}>' if again else ''}"
        f"<h1>Orders</h1><p>{escape(text)}</p>{below}</html>"
    )
    headers = {"Cache-Control": "no-store"} | ({"Retry-After": f"{RETRY_SECONDS}"} if again else {})
    return HTMLResponse(page, status_code=status, headers=headers)
