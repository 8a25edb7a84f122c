"""Parses the URL query of the latency page and of its CSV export into a selection of orders."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from db.domain import ORDER_ID_PATTERN, TERMINAL_STATES, State
from db.read_models.latency import Selection
from orchestrator.errors import RequestMalformed

NAMES = ("run", "range", "since", "until", "outcome", "faults")
RANGES = {
    "Last 15 minutes": timedelta(minutes=15),
    "Last hour": timedelta(hours=1),
    "Last 24 hours": timedelta(days=1),
    "Last 7 days": timedelta(days=7),
}
YEARS = range(2000, 2100)

_PROFILE = re.compile(r"^[a-z]{1,32}$")


def selection_of(query: Mapping[str, str], now: datetime | None = None) -> Selection:
    """Return the selection of a query. A missing or empty parameter does not filter.

    `range` is relative to `now`. Raises RequestMalformed for an invalid parameter: ignoring it would show
    more orders than the link selects.
    """
    given = {name: query.get(name, "") for name in NAMES}
    run_id, outcome, faults = given["run"], given["outcome"], given["faults"]
    if run_id and not re.fullmatch(ORDER_ID_PATTERN, run_id):
        raise RequestMalformed("a run id has 1 to 64 letters, digits, '-' or '_'")
    if outcome and outcome not in [state.value for state in TERMINAL_STATES]:
        raise RequestMalformed("unknown outcome")
    if faults and not _PROFILE.fullmatch(faults):
        raise RequestMalformed("unknown fault profile")
    since, until = (_time(name, given[name]) for name in ("since", "until"))
    if given["range"]:
        if given["range"] not in RANGES:
            raise RequestMalformed("unknown time range")
        if since or until:
            raise RequestMalformed("use either 'range' or 'since' and 'until'")
        since = (now or datetime.now(UTC)) - RANGES[given["range"]]
    return Selection(
        run_id=run_id or None,
        since=since,
        until=until,
        outcome=State(outcome) if outcome else None,
        fault_profile=faults or None,
    )


def _time(name: str, text: str) -> datetime | None:
    """Parse a time, which is in UTC unless it has an offset. Raises RequestMalformed."""
    if not text:
        return None
    try:
        time = datetime.fromisoformat(text)
        time = time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    except (ValueError, OverflowError):
        time = None
    if time is None or time.year not in YEARS:
        raise RequestMalformed(
            f"'{name}' must be a time such as 2026-01-31T12:00, in the years {YEARS[0]} to {YEARS[-1]}"
        )
    return time
