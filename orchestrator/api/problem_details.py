"""Every answer that is not a success, as a problem document (RFC 9457).

The reader of a problem gets a sentence and, for a malformed request, the wrong fields. What happened
inside stays in the log.
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

from orchestrator.api.models import Problem
from orchestrator.errors import (
    OrderUnknown,
    Overloaded,
    PayloadUnreadable,
    RequestMalformed,
    RequestRejected,
    RunUnknown,
    ServiceUnavailable,
)
from orchestrator.security.headers import API_HEADERS

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_SECONDS = 1
MAX_LISTED_FIELDS = 20

_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")

log = structlog.get_logger()


class ProblemResponse(JSONResponse):
    media_type = MEDIA_TYPE


def problem(
    status: int,
    detail: str,
    *,
    errors: Sequence[Mapping[str, str]] | None = None,
    headers: Mapping[str, str] | None = None,
) -> ProblemResponse:
    body: dict[str, Any] = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
    }
    if errors is not None:
        body["errors"] = errors
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        headers = {"Retry-After": str(RETRY_AFTER_SECONDS)} | dict(headers or {})
    return ProblemResponse(body, status_code=status, headers=headers)


def register(app: FastAPI) -> None:
    """Makes every error of the application a problem document."""
    app.add_exception_handler(RequestValidationError, _on_invalid_request)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(RequestRejected, _on_refused)
    app.add_exception_handler(ServiceUnavailable, _on_service_away)
    app.add_exception_handler(PayloadUnreadable, _on_payload_unreadable)
    app.add_exception_handler(Exception, _on_bug)


async def _on_invalid_request(_request: Request, error: Exception) -> ProblemResponse:
    assert isinstance(error, RequestValidationError)
    found = [
        {
            "field": _readable(".".join(str(part) for part in each["loc"])),
            "message": _readable(each["msg"].removeprefix("Value error, ")),
        }
        for each in error.errors()[:MAX_LISTED_FIELDS]
    ]
    detail = "; ".join(f"{each['field']}: {each['message']}" for each in found[:3])
    return problem(422, detail, errors=found)


async def _on_http_exception(request: Request, error: Exception) -> ProblemResponse:
    assert isinstance(error, HTTPException)
    if error.status_code == HTTPStatus.BAD_REQUEST:
        # FastAPI's word for a body that is no JSON at all, or too deep for a parser.
        return problem(422, "the body is not readable JSON")
    details = {
        HTTPStatus.NOT_FOUND: "there is nothing at this address",
        HTTPStatus.METHOD_NOT_ALLOWED: "this address does not take this method",
    }
    detail = details.get(HTTPStatus(error.status_code), HTTPStatus(error.status_code).phrase)
    headers = dict(error.headers or {})
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        headers["Allow"] = ", ".join(_methods_taken(request))
    return problem(error.status_code, detail, headers=headers)


def _methods_taken(request: Request) -> list[str]:
    """What the address takes, of all its routes: the router itself tells of the first one alone."""
    return [
        method
        for method in _METHODS
        if any(
            route.matches({**request.scope, "method": method})[0] is Match.FULL
            for route in request.app.router.routes
        )
    ]


def status_of(error: RequestRejected | ServiceUnavailable) -> int:
    """The status by which an answer tells of it."""
    for kinds, status in _STATUSES:
        if isinstance(error, kinds):
            return status
    return 409


_STATUSES: tuple[tuple[type[Exception] | tuple[type[Exception], ...], int], ...] = (
    ((OrderUnknown, RunUnknown), 404),
    (RequestMalformed, 422),
    (Overloaded, 429),
    (ServiceUnavailable, 503),
)


async def _on_refused(_request: Request, error: Exception) -> ProblemResponse:
    assert isinstance(error, RequestRejected)
    headers = {"Retry-After": str(error.retry_after_seconds)} if isinstance(error, Overloaded) else None
    return problem(status_of(error), str(error), headers=headers)


async def _on_service_away(request: Request, error: Exception) -> ProblemResponse:
    log.warning("service away", path=request.url.path, error=str(error), cause=repr(error.__cause__))
    return problem(503, str(error))


async def _on_payload_unreadable(request: Request, error: Exception) -> ProblemResponse:
    log.error("a payload of Temporal cannot be read", path=request.url.path, error=str(error))
    return problem(
        503,
        "what Temporal answered cannot be decrypted with the keys that are here; the request may still be "
        "carried out",
    )


async def _on_bug(_request: Request, _error: Exception) -> ProblemResponse:
    # The server logs the exception itself. This answer comes from outside of all that adds headers.
    return problem(500, "something went wrong here; the log has the details", headers=API_HEADERS)


def _readable(text: str) -> str:
    """A part of an error message that may quote the request: bounded, and valid Unicode."""
    return text[:200].encode("utf-8", "replace").decode()


# --- Documentation ------------------------------------------------------------------------------

_MEANINGS = {
    401: "No API key, or none that is valid; only once there are keys.",
    403: "The API key's role does not allow this.",
    404: "There is no such order, or no such run.",
    409: "Not possible as the order stands; the problem says why.",
    413: "The body is larger than 64 KiB.",
    421: "Without a key, only this machine's own names are answered.",
    422: "The request is malformed; the problem names the fields.",
    429: "More than can be done just now: orders within their limit, or reports; try again after "
    "Retry-After seconds.",
    503: "PostgreSQL or Temporal is away; try again after Retry-After seconds.",
}


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The problems that a route may answer with, for OpenAPI; every route may also answer 401, 403, 421, 422
    and 503."""
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
        for status in sorted({*statuses, 401, 403, 421, 422, 503})
    }


def as_text(media_type: str, description: str) -> dict[int | str, dict[str, Any]]:
    """A successful answer that is no JSON, for OpenAPI."""
    return {200: {"description": description, "content": {media_type: {"schema": {"type": "string"}}}}}


def document(app: FastAPI) -> None:
    """Gives the OpenAPI document the schema that `responses` refers to."""

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
                "key": {"type": "http", "scheme": "bearer", "description": "An API key, once there are any."}
            }
            schema["security"] = [{"key": []}]
            schema["paths"]["/health"]["get"]["security"] = []
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
