"""How long each disturbance affected the stack, as far as that is recorded."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from db.read_models.latency import Disturbance

_ENDED_BY = {"stop": ("start", "cont"), "pause": ("resume",)}
"""SIGSTOP and SIGCONT sent by hand are recorded as `stop` and `cont`."""

_RESTARTED_AUTOMATICALLY = ("kill", "restart", "term", "quit", "int", "hup")


@dataclass(frozen=True)
class DisturbanceSpan:
    """`until` is None while the component is down; it equals `since` for a disturbance without a duration."""

    since: datetime
    until: datetime | None
    name: str


def disturbance_spans(disturbances: Sequence[Disturbance], limit_seconds: float) -> list[DisturbanceSpan]:
    """Return one span per disturbance, in the same order.

    The recovery of a killed component is not recorded. Its orders are affected for at most their limit, so
    its span has that length and says so: "kill api (+15 s)".
    """
    spans: list[DisturbanceSpan] = []
    endings: set[int] = set()
    for number, each in enumerate(disturbances):
        name = f"{each.verb} {each.target}"
        if number in endings:
            continue
        if each.verb in _ENDED_BY:
            ending = next(
                (
                    n
                    for n in range(number + 1, len(disturbances))
                    if disturbances[n].target == each.target and disturbances[n].verb in _ENDED_BY[each.verb]
                ),
                None,
            )
            if ending is not None:
                endings.add(ending)
            spans.append(DisturbanceSpan(each.at, None if ending is None else disturbances[ending].at, name))
        elif each.verb in _RESTARTED_AUTOMATICALLY:
            until = each.at + timedelta(seconds=limit_seconds)
            spans.append(DisturbanceSpan(each.at, until, f"{name} (+{limit_seconds:g} s)"))
        else:
            spans.append(DisturbanceSpan(each.at, each.at, name))
    return spans
