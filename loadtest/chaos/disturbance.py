"""What is done to the stack during a run: `20s kill order-worker, 40s restart postgres`.

Parsing only; `loadtest.chaos.runner` carries it out.
"""

import re
from dataclasses import dataclass

from orchestrator.errors import UsageError

VERBS = ("kill", "restart", "stop", "start", "pause", "resume")
"""kill: SIGKILL, and the supervisor starts it again · restart: stopped and started in an orderly way ·
stop, start: away until it is started · pause, resume: SIGSTOP, SIGCONT."""

_TOLD = re.compile(
    r"(?P<every>every\s+)?(?P<at>\d+(?:\.\d+)?)(?P<unit>s|m)?\s+(?P<verb>\w+)\s+(?P<target>[\w-]+)"
)


@dataclass(frozen=True)
class Disturbance:
    """`at_seconds` after the first order is due. `target` is a component, or a kind of worker: then one of
    them, in turn."""

    at_seconds: float
    verb: str
    target: str

    def __str__(self) -> str:
        return f"{self.at_seconds:g}s {self.verb} {self.target}"


def parse_chaos(text: str, run_seconds: float) -> tuple[Disturbance, ...]:
    """Reads a comma-separated list; `every 60s kill order-worker` repeats until the run ends.

    Raises UsageError for what it cannot read, and for a time after the end of the run.
    """
    planned: list[Disturbance] = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        match = _TOLD.fullmatch(part)
        if match is None:
            raise UsageError(
                f"chaos: {part!r} is not like '20s kill order-worker' or 'every 60s kill order-worker'"
            )
        if match["verb"] not in VERBS:
            raise UsageError(f"chaos: {match['verb']!r} is not one of {', '.join(VERBS)}")
        at = float(match["at"]) * (60 if match["unit"] == "m" else 1)
        if at >= run_seconds or (match["every"] and at <= 0):
            raise UsageError(f"chaos: {part!r} lies outside the run of {run_seconds:g} s")
        times = [at]
        while match["every"] and times[-1] + at < run_seconds:
            times.append(times[-1] + at)
        planned += [Disturbance(each, match["verb"], match["target"]) for each in times]
    return tuple(sorted(planned, key=lambda disturbance: disturbance.at_seconds))
