"""Splits a time range into whole days, hours and minutes, the grains of the rollup."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from db.database import Row

GRAINS = (86_400, 3_600, 60)
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Span:
    """Whole units of one grain."""

    grain_seconds: int
    since: datetime
    until: datetime


def spans(since: datetime, until: datetime, coarsest: int = GRAINS[0]) -> Iterator[Span]:
    """Yield the spans of a range between whole minutes, each as coarse as possible, in order of time."""
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


def span_parameters(of: list[Span]) -> Row:
    return {
        "grains": [span.grain_seconds for span in of],
        "starts": [span.since for span in of],
        "ends": [span.until for span in of],
    }


def floor(moment: datetime, seconds: int) -> datetime:
    """Return the start of the unit of `seconds` that contains the moment."""
    return moment - (moment - _EPOCH) % timedelta(seconds=seconds)


def ceiling(moment: datetime, seconds: int) -> datetime:
    """Return the next start of a unit of `seconds`, or the moment itself."""
    return moment + (_EPOCH - moment) % timedelta(seconds=seconds)
