"""Who may do what: API keys as bearer tokens, looked at before anything else of a request.

The rule is by method and path, for every address there is or is not, so that a new route is closed before
anybody thinks of it. All keys, which are few, are read again every second in the background: a look-up costs
a request nothing, and a revoked key is soon worthless. Once they have not been read for some seconds, who has
a key is not let in either.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from time import monotonic

import structlog
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from db import api_keys as stored
from db.database import Database
from orchestrator.api.problem_details import problem
from orchestrator.api.routes.temporal_ui_login import LOGIN
from orchestrator.api.timeouts import within
from orchestrator.errors import DatabaseError, DatabaseUnavailable
from orchestrator.security import bind_policy
from orchestrator.security.key_hashing import Role, match_key
from orchestrator.settings import Settings

LOOK_SECONDS = 1.0
STALE_SECONDS = 10.0
"""Longer than a busy machine ever keeps the reading waiting; revoked keys are known long before."""
FIRST_LOOK_SECONDS = 1.2

log = structlog.get_logger()

_OPEN_PATHS = ("/health", LOGIN)
_READING = ("GET", "HEAD", "OPTIONS")
_CHAOS_PATHS = ("/faults",)


class KeyRing:
    """The keys, as they were a moment ago."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self._database = database
        self._is_always_closed = settings.auth == "required" or not bind_policy.is_loopback(
            settings.bind_address
        )
        self._known: Sequence[stored.StoredKey] = ()
        self._read_at = float("-inf")
        self._was_read = asyncio.Event()

    async def caller(self, token: str | None) -> tuple[str | None, Role | None]:
        """Name and role of who sends this token; (None, CHAOS) for anybody as long as no key was ever made;
        (None, None) for nobody we know. Raises DatabaseUnavailable when the keys cannot be read.

        Where there was no key when the books went away there is none now: on this machine's own address the
        routes that need no books go on.
        """
        if not self._was_read.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(self._was_read.wait(), FIRST_LOOK_SECONDS)
        if not self._was_read.is_set():
            raise DatabaseUnavailable
        if not self._known and not self._is_always_closed:
            return None, Role.CHAOS
        if monotonic() - self._read_at > STALE_SECONDS:
            raise DatabaseUnavailable
        key = None if token is None else match_key(token, self._known)
        return (None, None) if key is None else (key.name, Role.of(key.role))

    async def run(self) -> None:
        """Reads the keys, forever."""
        while True:
            try:
                self._known = await within(stored.every(self._database))
                self._read_at = monotonic()
                self._was_read.set()
            except DatabaseError:
                log.warning("API keys cannot be read just now")
            except Exception:
                # What was read grows stale, and the doors close.
                log.exception("API keys cannot be read")
            await asyncio.sleep(LOOK_SECONDS)


class Access:
    """Answers 401 to who is unknown, 403 to who may not do this, 421 to who needs no key and asks for another
    machine, 503 while nobody can be known."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in _OPEN_PATHS:
            await self._app(scope, receive, send)
            return
        context = scope["app"].state.context
        headers = Headers(scope=scope)
        token = bearer_token(headers) or context.ui_keys.key_of(scope)
        try:
            name, role = await context.keys.caller(token)
        except DatabaseError as error:
            await problem(503, str(error))(scope, receive, send)
            return
        needed = needed_role(scope["method"], scope["path"])
        if role is None:
            how = 'Bearer realm="orders"' + ("" if token is None else ', error="invalid_token"')
            detail = (
                "an API key is needed, as a bearer token" if token is None else "this API key is not valid"
            )
            await problem(401, detail, headers={"WWW-Authenticate": how})(scope, receive, send)
        elif role < needed:
            how = f'Bearer realm="orders", error="insufficient_scope", scope="{needed.word}"'
            detail = f"this needs a key of role {needed.word}; this one is {role.word}"
            await problem(403, detail, headers={"WWW-Authenticate": how})(scope, receive, send)
        elif name is None and not bind_policy.is_loopback_host(headers.get("host")):
            await problem(421, bind_policy.LOOPBACK_ONLY)(scope, receive, send)
        else:
            scope.setdefault("state", {})["caller"] = (name, role)
            await self._app(scope, receive, send)


def needed_role(method: str, path: str) -> Role:
    """Reading takes a viewer, changing what the outside does wrong takes chaos, all else an operator."""
    if method in _READING:
        return Role.VIEWER
    return Role.CHAOS if path.rstrip("/") in _CHAOS_PATHS else Role.OPERATOR


def bearer_token(headers: Headers) -> str | None:
    """The token of `Authorization: Bearer TOKEN`, or None."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" and token.strip() else None


def caller_of(request: Request) -> tuple[str | None, Role]:
    """Name (None when no key was needed) and role of who sends a request that was let in."""
    found: tuple[str | None, Role] = request.state.caller
    return found
