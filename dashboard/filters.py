"""A selection of orders as the query of an address, and back: a link reproduces a view."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from urllib.parse import urlencode

from db.charts import Selection
from orchestrator.vocabulary import ORDER_ID_PATTERN, TERMINAL_STATES, State

_PROFILE = re.compile(r"^[a-z]{1,32}$")


def selection_of(query: Mapping[str, str]) -> Selection:
    """Reads `run`, `since`, `until`, `outcome` and `faults`; what is unreadable counts as any."""
    run_id, faults = query.get("run", ""), query.get("faults", "")
    outcome = query.get("outcome", "")
    return Selection(
        run_id=run_id if re.fullmatch(ORDER_ID_PATTERN, run_id) else None,
        since=moment(query.get("since", "")),
        until=moment(query.get("until", "")),
        outcome=State(outcome) if outcome in [state.value for state in TERMINAL_STATES] else None,
        fault_profile=faults if _PROFILE.fullmatch(faults) else None,
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
    """A time like 2026-01-31T12:00, in UTC unless it says otherwise; None when it is none."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)


def text_of(when: datetime | None) -> str | None:
    return None if when is None else when.astimezone(UTC).strftime("%Y-%m-%dT%H:%M")
