"""Error responses as problem documents (RFC 9457).

A problem document has one sentence and, for a malformed request, the invalid fields. Internal details are
only in the log.
"""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.routing import Match

from orchestrator import errors
from orchestrator.api.schemas.responses import Problem
from orchestrator.security.headers import API_HEADERS

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_SECONDS = 1
MAX_LISTED_FIELDS = 20

_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")

log = structlog.get_logger()


def problem(
    status: int,
    detail: str,
    *,
    type_: str = "about:blank",
    fields: Sequence[Mapping[str, str]] | None = None,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """Return a problem document; `fields` lists the invalid ones."""
    body: dict[str, Any] = {
        "type": type_,
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
    }
    if fields is not None:
        body["errors"] = fields
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        headers = {"Retry-After": str(RETRY_AFTER_SECONDS)} | dict(headers or {})
    return JSONResponse(body, status_code=status, headers=headers, media_type=MEDIA_TYPE)


def register(app: FastAPI) -> None:
    """Add exception handlers that turn every error into a problem document."""
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(HTTPException, _on_http_exception)
    for kind in _STATUSES:
        app.add_exception_handler(kind, _on_order_system_error)
    app.add_exception_handler(Exception, _on_internal_error)


async def _on_validation_error(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    if isinstance(error.body, bytes):
        # FastAPI parses a body only if its Content-Type is JSON. A body of another type or without one is not
        # accepted as JSON: a browser sends such a request for a page of another site without CORS.
        return problem(415, "send the body as JSON, with the header Content-Type: application/json")
    fields = [
        {
            "field": _shorten(".".join(str(part) for part in each["loc"])),
            "message": _shorten(each["msg"].removeprefix("Value error, ")),
        }
        for each in error.errors()[:MAX_LISTED_FIELDS]
    ]
    detail = "; ".join(f"{each['field']}: {each['message']}" for each in fields[:3])
    return problem(422, detail, fields=fields)


async def _on_http_exception(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    if error.status_code == HTTPStatus.BAD_REQUEST:
        # FastAPI raises 400 for a body that is not JSON, or that is nested too deeply for the parser.
        return problem(422, "the body is not valid JSON")
    details = {
        HTTPStatus.NOT_FOUND: "there is no such path",
        HTTPStatus.METHOD_NOT_ALLOWED: "this path does not support the method",
    }
    detail = details.get(HTTPStatus(error.status_code), HTTPStatus(error.status_code).phrase)
    headers = dict(error.headers or {})
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        headers["Allow"] = ", ".join(_allowed_methods(request))
    return problem(error.status_code, detail, headers=headers)


def _allowed_methods(request: Request) -> list[str]:
    """Return the methods of all routes of the path. Starlette lists those of the first route only."""
    allowed = [
        method
        for method in _METHODS
        if any(
            route.matches({**request.scope, "method": method})[0] is Match.FULL
            for route in request.app.router.routes
        )
    ]
    return [*allowed, "HEAD"] if "GET" in allowed else allowed


_STATUSES: dict[type[Exception], int] = {
    errors.RequestRejected: 409,
    errors.OrderUnknown: 404,
    errors.RunUnknown: 404,
    errors.RequestMalformed: 422,
    errors.Overloaded: 429,
    errors.ServiceUnavailable: 503,
    errors.TemporalBusy: 429,
    errors.PayloadUnreadable: 503,
}
"""Status codes of error classes and of their subclasses. Any other error is a 500."""


_TYPES: dict[type[Exception], str] = {kind: type_ for type_, kind in errors.PROBLEM_TYPES.items()}


def status_of(error: Exception) -> int:
    """Return the status code of an error's response."""
    return next((_STATUSES[kind] for kind in type(error).__mro__ if kind in _STATUSES), 500)


async def _on_order_system_error(request: Request, error: Exception) -> JSONResponse:
    status, detail, headers = status_of(error), str(error), None
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        headers = {"Retry-After": str(getattr(error, "retry_after_seconds", RETRY_AFTER_SECONDS))}
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        log.warning("service unavailable", path=request.url.path, error=detail, cause=repr(error.__cause__))
    if isinstance(error, errors.PayloadUnreadable):
        # The error's message contains the name of a payload key.
        detail = (
            "Temporal's response cannot be decrypted with the keys of this process; the order may still "
            "process the request"
        )
    return problem(status, detail, type_=_TYPES.get(type(error), "about:blank"), headers=headers)


async def _on_internal_error(_request: Request, _error: Exception) -> JSONResponse:
    # The server logs the exception. This response does not pass the middleware that sets headers.
    return problem(500, "internal error; the log has the details", headers=API_HEADERS)


def _shorten(text: str) -> str:
    """Return an error message, which may quote the request, as valid Unicode of at most 200 characters."""
    return text[:200].encode("utf-8", "replace").decode()


# --- OpenAPI --------------------------------------------------------------------------------------

_MEANINGS = {
    401: "The API key is missing or invalid. No key is required until the first one exists.",
    403: "The role of the API key is too low.",
    404: "There is no such order or run.",
    409: "The state of the order does not allow this; the detail names the reason.",
    413: "The body is larger than 64 KiB.",
    415: "The Content-Type of the body is not application/json.",
    421: "Without an API key, only requests to 127.0.0.1 and localhost are accepted.",
    422: "The request is malformed; `errors` names the fields.",
    429: "Too many active orders, requests about one order or running reports, or a limit of Temporal is "
    "reached. Retry after Retry-After seconds.",
    503: "PostgreSQL or Temporal is unavailable. Retry after Retry-After seconds.",
}


def error_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the error responses of a route for OpenAPI. Every route has 401, 403, 421, 422, 429 and 503;
    413 adds 415, the other error of a route with a body."""
    if 413 in statuses:
        statuses += (415,)
    return {
        status: {
            "description": _MEANINGS[status],
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        | (
            {"headers": {"Retry-After": {"schema": {"type": "integer"}, "description": "Seconds."}}}
            if status in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)
            else {}
        )
        for status in sorted({*statuses, 401, 403, 421, 422, 429, 503})
    }


def as_text(media_type: str, description: str) -> dict[int | str, dict[str, Any]]:
    """Return a successful response that is not JSON, for OpenAPI."""
    return {200: {"description": description, "content": {media_type: {"schema": {"type": "string"}}}}}


def document(app: FastAPI) -> None:
    """Add to the OpenAPI document the schema that `error_responses` refers to, and the security scheme."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = get_openapi(
                title=app.title, version=app.version, description=app.description, routes=app.routes
            )
            schemas = schema["components"]["schemas"]
            problem_schema = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
            schemas |= problem_schema.pop("$defs", {})
            schemas["Problem"] = problem_schema
            schema["components"]["securitySchemes"] = {
                "key": {"type": "http", "scheme": "bearer", "description": "An API key, once one exists."}
            }
            schema["security"] = [{"key": []}]
            schema["paths"]["/health"]["get"]["security"] = []
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
