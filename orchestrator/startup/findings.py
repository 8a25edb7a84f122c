"""Findings of the start-up checks and the doctor."""

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from orchestrator.errors import StartRefused

CLOCK_SECONDS = 1.0
"""Maximum difference between two clocks. An order's limit is measured with those of Temporal, PostgreSQL and
a worker."""


@dataclass(frozen=True)
class Finding:
    """A `problem` needs action and prevents a start. A `notice` may be intended and does not change the exit
    code of `orders doctor`."""

    key: str
    message: str
    advice: str
    severity: Literal["problem", "notice"] = "problem"


def refuse(findings: Iterable[Finding]) -> None:
    """Raise StartRefused with message and advice of each problem, one per line. Log notices."""
    problems = []
    for each in findings:
        if each.severity == "problem":
            problems.append(f"{each.message} {each.advice}")
        else:
            logging.getLogger(__name__).warning("%s %s", each.message, each.advice)
    if problems:
        raise StartRefused("\n".join(problems))


def clock_findings(key: str, clock: str, ahead_seconds: float) -> Iterator[Finding]:
    """Compare another clock with this machine's; `ahead_seconds` is negative if it is behind."""
    if abs(ahead_seconds) > CLOCK_SECONDS:
        direction = "ahead of" if ahead_seconds > 0 else "behind"
        yield Finding(
            key,
            f"{clock} is {abs(ahead_seconds):.1f} s {direction} this machine's.",
            "Synchronize both clocks with the same time server. Deadlines and latencies are wrong until "
            "then.",
        )


def first_line(error: BaseException | None) -> str:
    """Return the first line of an error's message without its full stop; "" if there is none."""
    lines = str(error or "").strip().splitlines()
    return lines[0].rstrip(".") if lines else ""
