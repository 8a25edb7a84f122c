"""What the doctor reports."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

CLOCK_SECONDS = 1.0


@dataclass(frozen=True)
class Finding:
    """A `problem` needs action. A `notice` may be intended and does not change the exit code."""

    key: str
    message: str
    advice: str
    severity: Literal["problem", "notice"] = "problem"


@dataclass
class Report:
    """Findings, and lines with measurements for people."""

    findings: list[Finding] = field(default_factory=list)
    measurements: list[str] = field(default_factory=list)


def first_line(error: BaseException | None) -> str:
    """Return the first line of an error's message without its full stop; "" if there is none."""
    lines = str(error or "").strip().splitlines()
    return lines[0].rstrip(".") if lines else ""


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
