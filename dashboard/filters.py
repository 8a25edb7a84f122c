"""A selection of orders as the query of an address, and back: a link reproduces a view."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from urllib.parse import urlencode

from db.domain import ORDER_ID_PATTERN, TERMINAL_STATES, State
from db.read_models.latency import Selection
from orchestrator.errors import RequestMalformed

NAMES = ("run", "since", "until", "outcome", "faults")
YEARS = range(2000, 2100)

_PROFILE = re.compile(r"^[a-z]{1,32}$")


def selection_of(query: Mapping[str, str]) -> Selection:
    """Reads `run`, `since`, `until`, `outcome` and `faults`; empty ones count as any.

    Raises RequestMalformed for what cannot be read: more orders than were asked for would look like those.
    """
    given = {name: query.get(name, "") for name in NAMES}
    run_id, outcome, faults = given["run"], given["outcome"], given["faults"]
    if run_id and not re.fullmatch(ORDER_ID_PATTERN, run_id):
        raise RequestMalformed("a run's id is 1 to 64 letters, digits, '-' or '_'")
    if outcome and outcome not in [state.value for state in TERMINAL_STATES]:
        raise RequestMalformed("there is no such outcome")
    if faults and not _PROFILE.fullmatch(faults):
        raise RequestMalformed("there is no such fault profile")
    for name in ("since", "until"):
        if given[name] and moment(given[name]) is None:
            raise RequestMalformed(
                f"'{name}' is no time like 2026-01-31T12:00, from {YEARS[0]} to {YEARS[-1]}"
            )
    return Selection(
        run_id=run_id or None,
        since=moment(given["since"]),
        until=moment(given["until"]),
        outcome=State(outcome) if outcome else None,
        fault_profile=faults or None,
    )


def query_of(chosen: Selection) -> dict[str, str]:
    """The query that `selection_of` reads; without what is any."""
    values = {
        "run": chosen.run_id,
        "since": text_of(chosen.since),
        "until": text_of(chosen.until),
        "outcome": chosen.outcome.value if chosen.outcome else None,
        "faults": chosen.fault_profile,
    }
    return {name: value for name, value in values.items() if value}


def link(path: str, chosen: Selection) -> str:
    """A relative address with the selection in it."""
    return f"{path}?{urlencode(query_of(chosen))}"


def moment(text: str) -> datetime | None:
    """A time like 2026-01-31T12:00, in UTC unless it says otherwise; None when it is none, or far from any
    order."""
    try:
        found = datetime.fromisoformat(text)
        found = found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    except (ValueError, OverflowError):
        return None
    return found if found.year in YEARS else None


def text_of(when: datetime | None) -> str | None:
    return None if when is None else when.astimezone(UTC).strftime("%Y-%m-%dT%H:%M")
