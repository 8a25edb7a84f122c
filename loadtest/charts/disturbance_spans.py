"""The time in which each disturbance affected the stack, as far as its end is recorded."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from db.read_models.latency import Disturbance

_BEGINNINGS = ("stop", "pause")
_ENDINGS = ("start", "cont", "resume", "restart", "kill")
"""SIGSTOP and SIGCONT sent by hand are recorded as `stop` and `cont`. After a kill, the supervisor starts the
component again, also a paused one."""

_RESTARTED_AUTOMATICALLY = ("kill", "restart", "term", "quit", "int", "hup")


class DisturbanceSpan(NamedTuple):
    """`until` is None while the component is down; it equals `since` for a disturbance without a duration."""

    since: datetime
    until: datetime | None
    name: str


def disturbance_spans(disturbances: Sequence[Disturbance], limit_seconds: float) -> list[DisturbanceSpan]:
    """Return the spans of the disturbances. `disturbances` are in order of time.

    The recovery of a killed component is not recorded. Its orders are affected for at most their limit, so
    its span has that length and says so: "kill api (+15 s)".
    """
    spans: list[DisturbanceSpan] = []
    # By component: indexes of the open spans, which its next start or resume ends.
    open_spans: dict[str, list[int]] = {}
    for each in disturbances:
        name = f"{each.verb} {each.target}"
        ended = open_spans.pop(each.target, []) if each.verb in _ENDINGS else []
        for index in ended:
            spans[index] = spans[index]._replace(until=each.at)
        if each.verb in _BEGINNINGS:
            open_spans.setdefault(each.target, []).append(len(spans))
            spans.append(DisturbanceSpan(each.at, None, name))
        elif each.verb in _RESTARTED_AUTOMATICALLY:
            until = each.at + timedelta(seconds=limit_seconds)
            spans.append(DisturbanceSpan(each.at, until, f"{name} (+{limit_seconds:g} s)"))
        elif not ended:
            spans.append(DisturbanceSpan(each.at, each.at, name))
    return spans
