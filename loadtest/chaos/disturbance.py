"""Disturbances of a run, from the option `--chaos`: `20s kill order-worker, 40s restart postgres`."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from orchestrator.errors import UsageError

VERBS = ("kill", "restart", "stop", "start", "pause", "resume")
"""kill: SIGKILL, after which the supervisor starts the component again. restart: orderly stop and start.
stop: orderly stop until `start`. pause: SIGSTOP until `resume` (SIGCONT)."""

MAX_REPEATS = 1_000
"""Maximum repetitions of a disturbance with `every`. A restart takes seconds, so no run has more."""

ENDED_BY = {"pause": "resume", "stop": "start"}
"""Verbs that make a component unavailable, and the verb that makes it available again."""

_SYNTAX = re.compile(
    r"(?P<every>every\s+)?(?P<at>\d+(?:\.\d+)?)(?P<unit>s|m)?\s+(?P<verb>\w+)\s+(?P<target>[\w-]+)"
)


@dataclass(frozen=True)
class PlannedDisturbance:
    """A disturbance `at_seconds` after the start of the run.

    `target` is a component, or a kind of component whose components take turns.
    """

    at_seconds: float
    verb: str
    target: str

    def __str__(self) -> str:
        return f"{self.at_seconds:g}s {self.verb} {self.target}"


def parse_chaos(text: str, run_seconds: float) -> tuple[PlannedDisturbance, ...]:
    """Return the disturbances of a comma-separated list, in order of time.

    `every 60s kill order-worker` repeats until the end of the run. Raises UsageError for invalid text and for
    a time after the end of the run.
    """
    planned: list[PlannedDisturbance] = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        match = _SYNTAX.fullmatch(part)
        if match is None:
            raise UsageError(
                f"chaos must be a list such as '20s kill order-worker, every 60s restart api', not {part!r}."
            )
        if match["verb"] not in VERBS:
            raise UsageError(f"Unknown chaos verb {match['verb']!r}. Choose one of: {', '.join(VERBS)}.")
        at = float(match["at"]) * (60 if match["unit"] == "m" else 1)
        if at >= run_seconds or (match["every"] and at <= 0):
            raise UsageError(f"chaos: {part!r} is outside the run of {run_seconds:g} s.")
        if match["every"] and run_seconds / at > MAX_REPEATS:
            raise UsageError(f"chaos: {part!r} would happen more than {MAX_REPEATS} times.")
        times = [at]
        while match["every"] and times[-1] + at < run_seconds:
            times.append(times[-1] + at)
        planned += [PlannedDisturbance(each, match["verb"], match["target"]) for each in times]
    return tuple(sorted(planned, key=lambda disturbance: disturbance.at_seconds))


class UnavailableComponents(dict[str, str]):
    """Components that disturbances made unavailable, with the verb, oldest first."""

    def update_after(self, verb: str, component: str) -> None:
        if verb in ENDED_BY:
            self.pop(component, None)
            self[component] = verb
            return
        # The supervisor starts a paused component that is killed.
        ending_verbs = {"pause": ("resume", "restart", "kill"), "stop": ("start", "restart")}
        if component in self and verb in ending_verbs[self[component]]:
            del self[component]


def assign_components(
    planned: Sequence[PlannedDisturbance], components: list[str]
) -> list[PlannedDisturbance]:
    """Replace each kind of component by one of its components.

    The available components of a kind take turns; `resume` and `start` hit the one that has been unavailable
    the longest. Raises UsageError for an unknown target.
    """
    turns: Counter[str] = Counter()
    unavailable = UnavailableComponents()
    assigned = []
    for disturbance in planned:
        target = disturbance.target
        matching = [
            name for name in components if name == target or name.removeprefix(f"{target}-").isdecimal()
        ]
        if not matching:
            raise UsageError(f"Unknown component {target!r}. Choose one of: {', '.join(components)}.")
        waiting = [name for name, verb in unavailable.items() if ENDED_BY[verb] == disturbance.verb]
        component = next((name for name in waiting if name in matching), None)
        if component is None:
            available = [name for name in matching if name not in unavailable] or matching
            component = available[turns[target] % len(available)]
            turns[target] += 1
        assigned.append(replace(disturbance, target=component))
        unavailable.update_after(disturbance.verb, component)
    return assigned
