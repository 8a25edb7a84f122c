"""Authentication of the dashboard: once API keys exist, every page requires one.

A user signs in with an API key and gets a session cookie. The dashboard calls the API with the user's key and
has no key of its own. It checks the key again every few seconds, also while a page is open, so a revoked key
loses access within seconds.
"""

from html import escape
from pathlib import Path
from string import Template
from time import monotonic
from urllib.parse import parse_qs

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from orchestrator.errors import ServiceUnavailable
from orchestrator.security import bind_policy, keyless_access, role_cache
from orchestrator.security.headers import PAGE_HEADERS, with_headers
from orchestrator.security.key_hashing import is_token
from orchestrator.security.role_cache import RoleCache, sign_in_unavailable
from orchestrator.security.sessions import MAX_FORM_BYTES, Sessions, cookies_of
from orchestrator.settings import Settings

LOGIN_PATH = "/login"
LOGOUT_PATH = "/logout"
PUBLIC_PATHS = ("/_stcore/health",)
RECHECK_SECONDS = 2.0
RETRY_SECONDS = 5

_TEMPLATE = Template(Path(__file__).with_suffix(".html").read_text(encoding="utf-8"))

sessions = Sessions()
"""The browser sessions of this process, shared by the middleware and the threads of the pages."""


def session_cookie(settings: Settings) -> str:
    """Return the name of the session cookie.

    Browsers send a cookie to every port of a host, so each dashboard of a host needs its own name.
    """
    return f"orders_session_{settings.port('dashboard')}"


class SignInMiddleware:
    """ASGI middleware that rejects HTTP requests and WebSocket connections without a valid API key.

    While no API keys exist, requests to a loopback address need none.
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._base_path = settings.dashboard_base_path
        self._cookie = session_cookie(settings)
        self._roles = RoleCache(
            lambda key: role_cache.look_up_role(settings.api_url, key),
            key_required=not bind_policy.is_loopback(settings.bind_address),
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        if scope["type"] == "http":
            send = with_headers(send, PAGE_HEADERS)
        if scope["path"] == self._base_path:
            # Without the slash, the browser would not send the cookie.
            await RedirectResponse(f"{self._base_path}/", 308)(scope, receive, send)
            return
        path = scope["path"].removeprefix(self._base_path)
        if path in PUBLIC_PATHS:
            await self._app(scope, receive, send)
            return
        if path == LOGIN_PATH:
            await (await self._login(scope, receive))(scope, receive, send)
            return
        token = cookies_of(scope).get(self._cookie)
        if path == LOGOUT_PATH:
            sessions.end(token)
            response = RedirectResponse(f"{self._base_path}/", 303)
            response.delete_cookie(self._cookie, path=f"{self._base_path}/")
            await response(scope, receive, send)
            return
        key = sessions.api_key(token)
        try:
            role = await run_in_threadpool(self._roles.role_of, key)
        except ServiceUnavailable as error:
            await _reject(scope, receive, send, _unavailable_page(error))
            return
        if role is None:
            message = "" if key is None else "This key is no longer valid."
            await _reject(scope, receive, send, self._login_page(401, message))
        elif key is None and (refusal := await _keyless_refusal(scope)) is not None:
            status = 421 if refusal == keyless_access.LOOPBACK_ONLY else 401
            await _reject(scope, receive, send, _page(status, refusal, ""))
        elif scope["type"] == "websocket":
            await self._app(scope, receive, self._send_while_valid(send, key, token))
        else:
            await self._app(scope, receive, send)

    async def _login(self, scope: Scope, receive: Receive) -> Response:
        if scope["method"] != "POST":
            return RedirectResponse(f"{self._base_path}/", 303)
        body = bytearray()
        async for chunk in Request(scope, receive).stream():
            body += chunk
            if len(body) > MAX_FORM_BYTES:
                return self._login_page(413, "This text is too long for an API key.")
        key = parse_qs(body.decode("ascii", "replace")).get("key", [""])[0].strip()
        if not is_token(key):
            return self._login_page(401, "This is not an API key.")
        try:
            role = await run_in_threadpool(self._roles.role_of, key)
        except ServiceUnavailable as error:
            return self._login_page(503, sign_in_unavailable(error))
        if role is None:
            return self._login_page(401, "This key is not valid.")
        response = RedirectResponse(f"{self._base_path}/", 303)
        response.set_cookie(
            self._cookie,
            sessions.create(key),
            path=f"{self._base_path}/",
            httponly=True,
            samesite="strict",
            secure=scope["scheme"] == "https",
        )
        return response

    def _login_page(self, status: int, message: str) -> HTMLResponse:
        return _page(
            status,
            message,
            f"<form method='post' action='{self._base_path}{LOGIN_PATH}'><label>API key"
            "<input name='key' type='password' autocomplete='current-password' required autofocus>"
            "</label><button>Sign in</button></form>",
        )

    def _send_while_valid(self, send: Send, key: str | None, token: str | None) -> Send:
        """Return a `send` that closes the connection when the key is revoked or the session has ended."""
        checked_at = monotonic()
        is_closed = False

        async def send_if_valid(message: Message) -> None:
            nonlocal checked_at, is_closed
            if is_closed:
                return
            if monotonic() - checked_at > RECHECK_SECONDS:
                try:
                    role = await run_in_threadpool(self._roles.role_of, key)
                except ServiceUnavailable:
                    role = None
                if role is None or sessions.api_key(token) != key:
                    is_closed = True
                    await send({"type": "websocket.close", "code": 1008})
                    return
                checked_at = monotonic()
            await send(message)

        return send_if_valid


async def _keyless_refusal(scope: Scope) -> str | None:
    """Return why a request without a key is refused, or None.

    Only the WebSocket connection is checked for a proxy that adds no header: no page works without it.
    """
    refusal = keyless_access.request_refusal(scope)
    if refusal is not None or scope["type"] != "websocket":
        return refusal
    is_forwarded = await run_in_threadpool(keyless_access.connection_comes_from_proxy, scope)
    return keyless_access.FORWARDED if is_forwarded else None


async def _reject(scope: Scope, receive: Receive, send: Send, page: HTMLResponse) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})
        return
    await page(scope, receive, send)


def _unavailable_page(error: ServiceUnavailable) -> HTMLResponse:
    # An empty href links to the current URL, including its query string.
    page = _page(
        503, sign_in_unavailable(error), "<p><a href=''>Retry</a></p>", refresh_seconds=RETRY_SECONDS
    )
    page.headers["Retry-After"] = str(RETRY_SECONDS)
    return page


def _page(status: int, message: str, content: str, *, refresh_seconds: int | None = None) -> HTMLResponse:
    refresh = f"<meta http-equiv='refresh' content='{refresh_seconds}'>" if refresh_seconds else ""
    page = _TEMPLATE.substitute(refresh=refresh, message=escape(message), content=content)
    return HTMLResponse(page, status_code=status, headers={"Cache-Control": "no-store"})
