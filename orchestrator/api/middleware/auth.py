"""Authentication by API key, and authorization by method and path.

The rule covers every path, so a new route is protected by default. The keys are few: a background task reads
all of them every second, so a request costs no query and a revoked key stops working within seconds.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from time import monotonic

import structlog
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from db import api_keys
from db.database import Database
from orchestrator.api.problem_details import problem
from orchestrator.api.timeouts import with_timeout
from orchestrator.errors import DatabaseError, DatabaseUnavailable
from orchestrator.security import bind_policy, keyless_access
from orchestrator.security.key_hashing import Role, match_key
from orchestrator.settings import Settings

POLL_SECONDS = 1.0
STALE_SECONDS = 10.0
"""Maximum age of the keys. Longer than the delay of a poll on a busy machine."""

FIRST_READ_SECONDS = 1.2
"""How long the first requests wait for the first read of the keys."""

log = structlog.get_logger()

_PUBLIC_PATH = "/health"
_READ_METHODS = ("GET", "HEAD", "OPTIONS")
_CHAOS_PATHS = ("/faults",)


class KeyStore:
    """A copy of the API keys in the database, refreshed by `run`."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self._database = database
        self._always_required = settings.auth == "required" or not bind_policy.is_loopback(
            settings.bind_address
        )
        self._keys: Sequence[api_keys.StoredKey] = ()
        self._read_at = float("-inf")
        self._was_read = asyncio.Event()

    async def authenticate(self, token: str | None) -> tuple[str | None, Role | None]:
        """Return name and role of a token's key; (None, CHAOS) while no key exists and none is required;
        (None, None) for a missing or invalid token.

        Raises DatabaseUnavailable when the keys cannot be read. Where no key exists, access on the loopback
        interface continues: routes that need no database still work.
        """
        if not self._was_read.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(self._was_read.wait(), FIRST_READ_SECONDS)
        if not self._was_read.is_set():
            raise DatabaseUnavailable
        if not self._keys and not self._always_required:
            return None, Role.CHAOS
        if monotonic() - self._read_at > STALE_SECONDS:
            raise DatabaseUnavailable
        key = None if token is None else match_key(token, self._keys)
        return (None, None) if key is None else (key.name, Role.of(key.role))

    async def run(self) -> None:
        """Read the keys every second, until cancelled."""
        while True:
            try:
                self._keys = await with_timeout(api_keys.fetch_stored_keys(self._database))
                self._read_at = monotonic()
                self._was_read.set()
            except DatabaseError as error:
                log.warning("cannot read the API keys", error=str(error))
            await asyncio.sleep(POLL_SECONDS)


class AuthMiddleware:
    """Return 401 (missing or invalid key, or a forwarded request without a key), 403 (role too low), 421 (no
    key, and a Host that is not loopback) or 503 (keys could not be loaded)."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] == _PUBLIC_PATH:
            await self._app(scope, receive, send)
            return
        context = scope["app"].state.context
        headers = Headers(scope=scope)
        token = bearer_token(headers)
        try:
            name, role = await context.keys.authenticate(token)
        except DatabaseError as error:
            await problem(503, str(error))(scope, receive, send)
            return
        required = required_role(scope["method"], scope["path"])
        if role is None:
            challenge = 'Bearer realm="orders"' + ("" if token is None else ', error="invalid_token"')
            detail = (
                "an API key is required, as a bearer token" if token is None else "this API key is not valid"
            )
            await problem(401, detail, headers={"WWW-Authenticate": challenge})(scope, receive, send)
        elif role < required:
            challenge = f'Bearer realm="orders", error="insufficient_scope", scope="{required.word}"'
            detail = f"this requires a key of role {required.word}; this key has role {role.word}"
            await problem(403, detail, headers={"WWW-Authenticate": challenge})(scope, receive, send)
        elif name is None and (refusal := await _keyless_refusal(scope, required)) is not None:
            status = 421 if refusal == keyless_access.LOOPBACK_ONLY else 401
            headers_of_401 = {"WWW-Authenticate": 'Bearer realm="orders"'} if status == 401 else None
            await problem(status, refusal, headers=headers_of_401)(scope, receive, send)
        else:
            scope.setdefault("state", {})["caller"] = (name, role)
            await self._app(scope, receive, send)


async def _keyless_refusal(scope: Scope, required: Role) -> str | None:
    """Return why a request without a key is refused, or None. Checks the sending process for role chaos only:
    reading the socket tables at every request would cost too much."""
    refusal = keyless_access.request_refusal(scope)
    if refusal is not None or required < Role.CHAOS:
        return refusal
    is_forwarded = await run_in_threadpool(keyless_access.connection_comes_from_proxy, scope)
    return keyless_access.FORWARDED if is_forwarded else None


def required_role(method: str, path: str) -> Role:
    """Return viewer for reads, chaos for a change of the fault profile, and operator for everything else."""
    if method in _READ_METHODS:
        return Role.VIEWER
    return Role.CHAOS if path.rstrip("/") in _CHAOS_PATHS else Role.OPERATOR


def bearer_token(headers: Headers) -> str | None:
    """Return the token of `Authorization: Bearer TOKEN`, or None."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" and token.strip() else None


def caller_of(request: Request) -> tuple[str | None, Role]:
    """Return name (None without a key) and role of an authenticated request's sender."""
    caller: tuple[str | None, Role] = request.state.caller
    return caller
