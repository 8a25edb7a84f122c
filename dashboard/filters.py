"""Checks the URL queries of the pages and of the CSV export, and parses them into selections of orders.

An invalid query is an error: a page that ignored a parameter would show more orders than the link selects.
"""

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import UTC, datetime, timedelta

from db.domain import ORDER_ID_PATTERN, TERMINAL_STATES, State
from db.read_models.latency import Selection
from db.read_models.time_spans import ceiling, floor
from loadtest.options import Scenario
from orchestrator.errors import RequestMalformed
from orchestrator.rfc3339 import parse_rfc3339

NAMES = ("run", "range", "since", "until", "outcome", "faults")
RANGES = {
    "Last 15 minutes": timedelta(minutes=15),
    "Last hour": timedelta(hours=1),
    "Last 24 hours": timedelta(days=1),
    "Last 7 days": timedelta(days=7),
}
WINDOWS = {"1 min": 60, "5 min": 300, "15 min": 900, "1 h": 3600}
COUNTERS = ("since opened", "last hour")
ORDER_STATES = ("any", "running", "late", *(state.value for state in State))
YEARS = range(2000, 2100)

_PROFILE = re.compile(r"^[a-z]{1,32}$")


def check_query(page: str, parameters: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return the URL query of a page, given as (name, value) pairs, by name.

    Raises RequestMalformed for a name that the page does not have or that occurs twice, and for an invalid
    value.
    """
    query: dict[str, str] = {}
    checks = _PAGES[page]
    for name, value in parameters:
        if name not in checks:
            known = f"it has {', '.join(checks)}" if checks else "it has none"
            raise RequestMalformed(f"this page has no parameter '{name}'; {known}")
        if name in query:
            raise RequestMalformed(f"the parameter '{name}' is given twice")
        if value:
            checks[name](value)
        query[name] = value
    return query


def defaults(page: str) -> dict[str, str | None]:
    """Return the filters of a page by name, each with the value of its widget without a filter."""
    names = {name: None for name in _PAGES[page] if name not in ("order", "before")}
    if page == "load_tests":
        # The page of a run has no widget for the run.
        del names["run"]
    return names | _DEFAULTS.get(page, {})


def selection_of(query: Mapping[str, str], now: datetime | None = None) -> Selection:
    """Return the selection of a query. A missing or empty parameter does not filter.

    `range` is relative to `now`. Raises RequestMalformed for an invalid parameter.
    """
    given = {name: query.get(name, "") for name in NAMES}
    for name, value in given.items():
        if value:
            _PAGES["latency"][name](value)
    since, until = (_time(given[name]) if given[name] else None for name in ("since", "until"))
    if given["range"]:
        if since or until:
            raise RequestMalformed("use either 'range' or 'since' and 'until'")
        since = (now or datetime.now(UTC)) - RANGES[given["range"]]
    return Selection(
        run_id=given["run"] or None,
        since=since,
        until=until,
        outcome=State(given["outcome"]) if given["outcome"] else None,
        fault_profile=given["faults"] or None,
    )


def with_widget_times(parameters: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return a URL query with its times in the format of the widgets: in UTC, extended to whole minutes.

    An invalid time stays unchanged, so that the page reports it.
    """
    return [(name, _widget_time(name, value)) for name, value in parameters]


def _widget_time(name: str, value: str) -> str:
    round_to = {"since": floor, "until": ceiling}.get(name)
    try:
        return round_to(_time(value), 60).strftime("%Y-%m-%dT%H:%M") if round_to and value else value
    except RequestMalformed:
        return value


def cursor_of(accepted_at: datetime, order_id: str) -> str:
    """Return the cursor, for the URL, of the page of orders that starts after this order."""
    return f"{accepted_at.isoformat()}~{order_id}"


def parse_cursor(text: str) -> tuple[datetime, str]:
    """Return acceptance time and order id of a cursor. Raises RequestMalformed."""
    time, _, order_id = text.partition("~")
    try:
        at = parse_rfc3339(time)
    except ValueError:
        at = None
    if at is None or not order_id:
        raise RequestMalformed("'before' must be the cursor of another page")
    return at, order_id


def _time(text: str) -> datetime:
    """Parse a time, which is in UTC unless it has an offset. Raises RequestMalformed."""
    try:
        time = parse_rfc3339(text, offset_required=False)
        # Selections are extended to whole minutes.
        if time.year in YEARS and ceiling(time, 60).year in YEARS:
            return time
    except ValueError:
        pass
    raise RequestMalformed(
        f"'since' and 'until' must be times such as 2026-01-31T12:00 or 2026-01-31T12:00:00Z, "
        f"in the years {YEARS[0]} to {YEARS[-1]}"
    )


def _run_id(text: str) -> None:
    if not re.fullmatch(ORDER_ID_PATTERN, text):
        raise RequestMalformed("a run id has 1 to 64 letters, digits, '-' or '_'")


def _profile(text: str) -> None:
    if not _PROFILE.fullmatch(text):
        raise RequestMalformed("unknown fault profile")


def _second(text: str) -> None:
    if not re.fullmatch("[0-9]{1,6}", text):
        raise RequestMalformed("'second' must be a second of the run, such as 23")


def _any_text(_text: str) -> None:
    pass


def _one_of(name: str, allowed: Collection[str]) -> Callable[[str], None]:
    def check(text: str) -> None:
        if text not in allowed:
            raise RequestMalformed(f"unknown {name}: choose one of {', '.join(allowed)}")

    return check


_DEFAULTS = {
    "stage": {"counters": COUNTERS[0]},
    "overview": {"window": "5 min"},
    "orders": {"q": "", "state": "any", "run": ""},
}

_PAGES: dict[str, dict[str, Callable[[str], object]]] = {
    "stage": {"counters": _one_of("time of the counters", COUNTERS)},
    "overview": {"window": _one_of("time window", WINDOWS)},
    "orders": {
        "order": _any_text,
        "q": _any_text,
        "state": _one_of("state", ORDER_STATES),
        "run": _run_id,
        "before": parse_cursor,
    },
    "reviews": {},
    "latency": {
        "run": _run_id,
        "range": _one_of("time range", RANGES),
        "since": _time,
        "until": _time,
        "outcome": _one_of("outcome", [state.value for state in TERMINAL_STATES]),
        "faults": _profile,
    },
    "load_tests": {
        "run": _run_id,
        "baseline": _run_id,
        "second": _second,
        "scenario": _one_of("scenario", tuple(Scenario)),
    },
    "audit": {"run": _run_id},
}
"""The check of each parameter, by page and name."""
