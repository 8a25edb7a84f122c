"""How long what was done to the stack could be felt, as far as it is known."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from db.read_models.latency import Disturbance

_ENDED_BY = {"stop": ("start", "cont"), "pause": ("resume",)}
"""What takes a component away, and what brings it back. By hand, SIGSTOP and SIGCONT are stop and cont."""

_BACK_BY_ITSELF = ("kill", "restart", "term", "quit", "int", "hup")


@dataclass(frozen=True)
class DisturbedTime:
    """`until` is None while the component is away, and `since` for what has no length."""

    since: datetime
    until: datetime | None
    name: str


def disturbed_times(told: Sequence[Disturbance], limit_seconds: float) -> list[DisturbedTime]:
    """Oldest first, as they are told. A component that was stopped or held is away until it was brought back.
    When one that was killed was well again nobody has kept: its orders feel it for their limit at most, so
    that long is shown, and said to be that."""
    found: list[DisturbedTime] = []
    endings: set[int] = set()
    for number, each in enumerate(told):
        name = f"{each.verb} {each.target}"
        if number in endings:
            continue
        if each.verb in _ENDED_BY:
            end = _ending(told, number)
            if end is not None:
                endings.add(end)
            found.append(DisturbedTime(each.at, None if end is None else told[end].at, name))
        elif each.verb in _BACK_BY_ITSELF:
            until = each.at + timedelta(seconds=limit_seconds)
            found.append(DisturbedTime(each.at, until, f"{name}, and the limit after it"))
        else:
            found.append(DisturbedTime(each.at, each.at, name))
    return found


def _ending(told: Sequence[Disturbance], number: int) -> int | None:
    begun = told[number]
    later = range(number + 1, len(told))
    return next(
        (n for n in later if told[n].target == begun.target and told[n].verb in _ENDED_BY[begun.verb]), None
    )
