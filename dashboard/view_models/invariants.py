"""The report of an audit, one invariant after the other."""

import json
from dataclasses import dataclass, field
from typing import Any

from db.audit import MAX_VIOLATIONS
from orchestrator.rest_client import Json


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

    @property
    def finding(self) -> str:
        """In words; where the audit has found as many as it looks for, there may be more."""
        if self.holds:
            return "holds"
        found = len(self.violations)
        return f"{found} or more broken" if found >= MAX_VIOLATIONS else f"{found} broken"


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


def as_file(report: Json) -> str:
    """The whole report, with every violation, as JSON text."""
    return json.dumps(report, indent=2, ensure_ascii=False) + "\n"
