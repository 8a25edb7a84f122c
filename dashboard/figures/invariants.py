"""The report of an audit, one invariant after the other."""

from dataclasses import dataclass, field
from typing import Any

from dashboard.api_client import Json


@dataclass(frozen=True)
class Violation:
    order_id: str
    finding: str
    witness: Any


@dataclass(frozen=True)
class InvariantState:
    number: int
    text: str
    holds: bool
    violations: list[Violation] = field(default_factory=list)


def states_of(report: Json) -> list[InvariantState]:
    """Each invariant with its own violations, as the API reports them."""
    return [
        InvariantState(
            number=invariant["number"],
            text=invariant["text"],
            holds=invariant["holds"],
            violations=[
                Violation(each["order_id"], each["finding"], each["witness"])
                for each in report["violations"]
                if each["invariant"] == invariant["number"]
            ],
        )
        for invariant in report["invariants"]
    ]
