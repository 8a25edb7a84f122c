"""The door of Locust's web page: once there are API keys, it takes one of role operator.

By HTTP Basic authentication, which every browser brings: any name, and the key as password. The run that a
user starts asks the API with this user's key.
"""

from urllib.parse import urlsplit

from flask import Flask, Response, g, request

from orchestrator.errors import ServiceUnavailable
from orchestrator.security import bind_policy
from orchestrator.security.headers import PAGE_HEADERS
from orchestrator.security.key_hashing import Role
from orchestrator.security.role_cache import RoleCache

ALIVE = "/alive"
"""Whether the page is there, for who watches over the processes."""

_CHALLENGE = {"WWW-Authenticate": 'Basic realm="orders: any name, an API key as password", charset="UTF-8"'}


def hang(app: Flask, callers: RoleCache) -> None:
    """Adds the door before every page of the application, and headers to every answer."""

    @app.before_request
    def let_in() -> Response | None:
        if request.path == ALIVE:
            return None
        if request.method not in ("GET", "HEAD", "OPTIONS") and _comes_from_elsewhere():
            return _text(403, "this was sent by a page of somebody else")
        key = _key()
        try:
            role = callers.role_of(key)
        except ServiceUnavailable:
            return _text(503, "the API does not answer, so nobody knows who you are; try again shortly")
        if role is None:
            return _text(401, "an API key is needed, as the password", _CHALLENGE)
        if key is None and not bind_policy.is_loopback_host(request.host):
            return _text(421, bind_policy.LOOPBACK_ONLY)
        if role < Role.OPERATOR:
            return _text(403, "load tests need a key of role operator", _CHALLENGE)
        g.api_key = key
        return None

    def let_no_other_site_read(response: Response) -> Response:
        for name, _ in list(response.headers):
            if name.lower().startswith("access-control-"):
                del response.headers[name]
        return response

    # Locust lets every site read its answers. Of these functions the first one has the last word.
    app.after_request_funcs.setdefault(None, []).insert(0, let_no_other_site_read)

    @app.after_request
    def add_headers(response: Response) -> Response:
        for name, value in PAGE_HEADERS.items():
            response.headers[name] = value
        return response

    @app.route(ALIVE)
    def alive() -> Response:
        return _text(200, "alive")


def caller_key() -> str | None:
    """The key that the request under way was let in with, or None where none is needed."""
    key: str | None = g.get("api_key")
    return key


def _key() -> str | None:
    given = request.authorization
    if given is None or given.type != "basic" or not given.password:
        return None
    return given.password if given.password.isascii() and given.password.isprintable() else None


def _comes_from_elsewhere() -> bool:
    """Whether a browser sends this for another site: it adds the credentials to such requests too."""
    origin = request.headers.get("Origin")
    return origin is not None and urlsplit(origin).netloc != request.host


def _text(status: int, sentence: str, headers: dict[str, str] | None = None) -> Response:
    return Response(sentence + "\n", status=status, mimetype="text/plain", headers=headers)
