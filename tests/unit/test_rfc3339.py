"""RFC 3339 times: every form of the standard is read, anything else is an error."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as some

from orchestrator.rfc3339 import format_rfc3339, parse_rfc3339

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("2026-01-31T12:00:00Z", NOON),
        ("2026-01-31t12:00:00z", NOON),
        ("2026-01-31 12:00:00Z", NOON),
        ("2026-01-31T14:00:00+02:00", NOON),
        ("2026-01-31T14:00:00 02:00", NOON),
        ("2026-01-31T06:30:00-05:30", NOON),
        ("2026-01-31T12:00:00-00:00", NOON),
        ("2026-01-31T12:00Z", NOON),
        ("2026-01-31T12:00:00.5Z", NOON + timedelta(milliseconds=500)),
        ("2026-01-31T12:00:00.123456789Z", NOON + timedelta(microseconds=123_456)),
        # A leap second becomes the next second.
        ("2016-12-31T23:59:60Z", datetime(2017, 1, 1, tzinfo=UTC)),
    ],
)
def test_times_are_read(text: str, time: datetime) -> None:
    assert parse_rfc3339(text) == time
    assert parse_rfc3339(text).tzinfo == UTC


@pytest.mark.parametrize(
    "text",
    [
        "", "yesterday", "1893456000", "2026-01-31", "2026-01-31T12:00:00", "2026-02-30T12:00:00Z",
        "2026-01-31T25:00:00Z", "2026-01-31T12:00:61Z", "2026-W05-6T12:00:00Z", "20260131T120000Z",
        "2026-01-31T12:00:00,5Z", "2026-01-31T12:00:00+24:00", "2026-01-31T12:00:00Z\n",
        " 2026-01-31T12:00:00Z",
        "٢٠٢٦-01-31T12:00:00Z", "0001-01-01T00:00:00+12:00", "9999-12-31T23:59:60Z",
    ],
)  # fmt: skip
def test_anything_else_raises(text: str) -> None:
    with pytest.raises(ValueError, match=r"time|range|years|hour|offset|must"):
        parse_rfc3339(text)


@given(some.integers(0, 8_000 * 31_556_952), some.integers(0, 999_999), some.integers(-1439, 1439))
def test_a_formatted_time_is_read_back(seconds: int, microseconds: int, offset_minutes: int) -> None:
    time = datetime(1900, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds, microseconds=microseconds)
    shifted = time.astimezone(timezone(timedelta(minutes=offset_minutes)))
    assert parse_rfc3339(shifted.isoformat()) == time
    assert parse_rfc3339(format_rfc3339(shifted, "microseconds")) == time
