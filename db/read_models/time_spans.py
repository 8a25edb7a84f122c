"""Splits a time range into whole days, hours and minutes: the grains of the rollup, in seconds."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from db.database import Row

GRAINS = (86_400, 3_600, 60)
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_LAST = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True)
class Span:
    """A time range that consists of whole days, hours or minutes."""

    grain_seconds: int
    since: datetime
    until: datetime


def spans(since: datetime, until: datetime, coarsest: int = GRAINS[0]) -> Iterator[Span]:
    """Split a range between whole minutes into spans, each as coarse as possible, in time order."""
    yield from _split(since, until, [grain for grain in GRAINS if grain <= coarsest])


def _split(since: datetime, until: datetime, grains: list[int]) -> Iterator[Span]:
    if since >= until or not grains:
        return
    grain = grains[0]
    first, last = ceiling(since, grain), floor(until, grain)
    if first >= last:
        yield from _split(since, until, grains[1:])
        return
    yield from _split(since, first, grains[1:])
    yield Span(grain, first, last)
    yield from _split(last, until, grains[1:])


def span_parameters(covering: list[Span]) -> Row:
    """Return the query parameters `grains`, `starts` and `ends`."""
    return {
        "grains": [span.grain_seconds for span in covering],
        "starts": [span.since for span in covering],
        "ends": [span.until for span in covering],
    }


def floor(moment: datetime, seconds: int) -> datetime:
    """Round a time down to a multiple of `seconds`."""
    return moment - (moment - _EPOCH) % timedelta(seconds=seconds)


def ceiling(moment: datetime, seconds: int) -> datetime:
    """Round a time up to a multiple of `seconds`, at most to the last time of the year 9999."""
    return moment + min((_EPOCH - moment) % timedelta(seconds=seconds), _LAST - moment)
