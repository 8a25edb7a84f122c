"""Authentication of Locust's web UI: once the API has keys, the web UI needs one of role operator.

The key is the password of HTTP Basic authentication, with any user name. A run that a user starts sends its
requests to the API with the same key.
"""

from urllib.parse import urlsplit

from flask import Flask, Response, g, request

from orchestrator.errors import ServiceUnavailable
from orchestrator.security import keyless_access
from orchestrator.security.headers import PAGE_HEADERS
from orchestrator.security.key_hashing import Role, is_token
from orchestrator.security.role_cache import RoleCache, sign_in_unavailable

ALIVE = "/alive"
"""Liveness check of the process, without authentication."""

_CHANGING_PATHS = ("/stop", "/stats/reset")
"""Paths at which a GET request changes a run."""

_CHALLENGE = {"WWW-Authenticate": 'Basic realm="orders: any name, an API key as password", charset="UTF-8"'}


def add_authentication(app: Flask, roles: RoleCache) -> None:
    """Authenticate every request, and set security headers on every response."""

    @app.before_request
    def authenticate() -> Response | None:
        if request.path == ALIVE:
            return None
        if request.method not in ("GET", "HEAD", "OPTIONS") and _is_cross_site():
            return _text(403, "Cross-site requests are not allowed.")
        key = _request_key()
        try:
            role = roles.role_of(key)
        except ServiceUnavailable as error:
            return _text(503, sign_in_unavailable(error))
        if role is None:
            return _text(401, "An API key is required as the password.", _CHALLENGE)
        if key is None and (refusal := _keyless_refusal()) is not None:
            return _text(421 if refusal == keyless_access.LOOPBACK_ONLY else 401, refusal)
        if role < Role.OPERATOR:
            return _text(403, "Load tests need a key of role operator.", _CHALLENGE)
        g.api_key = key
        return None

    def remove_cors_headers(response: Response) -> Response:
        for name, _ in list(response.headers):
            if name.lower().startswith("access-control-"):
                del response.headers[name]
        return response

    # Locust allows every origin. Flask runs after_request functions in reverse order, so index 0 runs last.
    app.after_request_funcs.setdefault(None, []).insert(0, remove_cors_headers)

    @app.after_request
    def add_security_headers(response: Response) -> Response:
        for name, value in PAGE_HEADERS.items():
            response.headers[name] = value
        return response

    @app.route(ALIVE)
    def alive() -> Response:
        return _text(200, "alive")


def authenticated_key() -> str | None:
    """Return the API key of the current request, or None if the API needs no keys."""
    key: str | None = g.get("api_key")
    return key


def _keyless_refusal() -> str | None:
    """Return why a request without a key is refused, or None.

    The sender of a POST is checked too, because a POST can start a run that kills components.
    """
    server = request.environ
    port = int(server["SERVER_PORT"])
    protocol = server["SERVER_PROTOCOL"].removeprefix("HTTP/")
    host = request.headers.get("Host")
    refusal = keyless_access.refusal(request.headers.keys(), host, request.remote_addr, port, protocol)
    if refusal is None and (request.method == "POST" or request.path in _CHANGING_PATHS):
        client_port = int(server.get("REMOTE_PORT", 0))
        if keyless_access.comes_from_proxy(client_port, port):
            return keyless_access.FORWARDED
    return refusal


def _request_key() -> str | None:
    authorization = request.authorization
    if authorization is None or authorization.type != "basic" or not authorization.password:
        return None
    password = authorization.password
    return password if is_token(password) else None


def _is_cross_site() -> bool:
    """Return whether another site sent this request. Browsers add Basic credentials to such requests too."""
    origin = request.headers.get("Origin")
    return origin is not None and urlsplit(origin).netloc != request.host


def _text(status: int, sentence: str, headers: dict[str, str] | None = None) -> Response:
    return Response(sentence + "\n", status=status, mimetype="text/plain", headers=headers)
