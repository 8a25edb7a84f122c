"""CSV cells, cursors, times, problem documents and security headers."""

import base64
import re
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from fastapi import FastAPI
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import ValidationError
from starlette.types import Receive, Scope, Send

from db.domain import State
from db.read_models.order_details import OrderSummary, PageKey
from orchestrator.api import problem_details
from orchestrator.api.middleware.security_headers import SecurityHeaders
from orchestrator.api.schemas.pagination import CURSOR_PATTERN, cursor_of, parse_cursor
from orchestrator.api.schemas.requests import LatencyQuery
from orchestrator.errors import (
    DatabaseUnavailable,
    OrderUnknown,
    PayloadUnreadable,
    PoolExhausted,
    RequestMalformed,
    StatementTimeout,
    TooLate,
    WrongCredentials,
)
from orchestrator.rfc3339 import format_rfc3339
from orchestrator.security.headers import API_HEADERS

# Hypothesis adds the time zone itself.
SECONDS_BEGIN = datetime(1970, 1, 1, tzinfo=UTC).replace(tzinfo=None)

NOW = datetime(2026, 1, 31, 12, 0, 0, 123_456, tzinfo=UTC)


@given(
    st.datetimes(SECONDS_BEGIN, SECONDS_BEGIN + timedelta(days=700_000), timezones=st.just(UTC)),
    st.text("abcXYZ019-_", min_size=1, max_size=64),
)
def test_a_cursor_names_its_order_exactly(accepted_at: datetime, order_id: str) -> None:
    order = OrderSummary(
        order_id=order_id,
        run_id=None,
        state=State.RECEIVED,
        current_step=None,
        reason=None,
        currency="USD",
        amount_cents=0,
        accepted_at=accepted_at,
        last_event_at=accepted_at,
        deadline_at=accepted_at,
        completion_ms=None,
        within_limit=None,
    )
    assert parse_cursor(cursor_of(order)) == PageKey(accepted_at, order_id)


@given(
    st.one_of(
        st.text(max_size=60), st.binary(max_size=60).map(lambda raw: base64.urlsafe_b64encode(raw).decode())
    )
)
def test_any_other_cursor_is_malformed(text: str) -> None:
    assume(not re.fullmatch(CURSOR_PATTERN, text, re.ASCII))
    with pytest.raises(RequestMalformed):
        parse_cursor(text)


def test_times_are_utc_with_milliseconds() -> None:
    assert format_rfc3339(NOW.replace(microsecond=0)) == "2026-01-31T12:00:00.000Z"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (OrderUnknown("no such order"), 404),
        (TooLate("too late"), 409),
        (RequestMalformed("wrong"), 422),
        (DatabaseUnavailable(), 503),
        (StatementTimeout(), 503),
        (PoolExhausted(), 503),
        (WrongCredentials(), 503),
        (PayloadUnreadable("key secret is not here"), 503),
        (RuntimeError("password=secret at /srv/app.py"), 500),
        (ExceptionGroup("several", [ValueError("secret")]), 500),
    ],
)
async def test_every_error_becomes_a_problem_document(error: Exception, status: int) -> None:
    app = FastAPI()
    problem_details.register(app)

    @app.get("/")
    async def fail() -> None:
        raise error

    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        response = await client.get("/")
    assert (response.status_code, response.json()["status"]) == (status, status)
    assert response.headers["content-type"] == "application/problem+json"
    assert "secret" not in response.text
    assert ("retry-after" in response.headers) == (status == 503)
    if status == 500:
        assert {name.lower() for name in API_HEADERS} <= response.headers.keys()


async def test_every_response_has_the_security_headers() -> None:
    async def nothing(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body"})

    transport = httpx.ASGITransport(SecurityHeaders(nothing))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        headers = (await client.get("/")).headers
    assert dict(headers) == {
        "x-content-type-options": "nosniff",
        "x-frame-options": "DENY",
        "referrer-policy": "no-referrer",
        "cache-control": "no-store",
        "cross-origin-resource-policy": "same-origin",
        "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    }


@pytest.mark.parametrize(
    "text", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "9999-12-31T23:59:59.9999999-00:01"]
)
def test_a_time_outside_the_years_of_utc_is_malformed(text: str) -> None:
    with pytest.raises(ValidationError, match="must be a time"):
        LatencyQuery(since=text)  # type: ignore[arg-type]


def test_times_are_converted_to_utc() -> None:
    asked = LatencyQuery(since="2026-01-31T12:00:00+05:00")  # type: ignore[arg-type]
    assert asked.since is not None
    assert (asked.since.tzinfo, asked.since.hour) == (UTC, 7)
