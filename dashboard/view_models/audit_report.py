"""The violations of an audit report, grouped by invariant."""

from dataclasses import dataclass
from typing import Any

from db.maintenance.audit import MAX_VIOLATIONS
from orchestrator.rest_client import Json


@dataclass(frozen=True)
class Invariant:
    """One invariant. Each violation has order_id, finding and evidence, as in the REST API."""

    number: int
    text: str
    holds: bool
    violations: list[dict[str, Any]]

    @property
    def status(self) -> str:
        """Return "holds" or the number of violations; the audit returns at most MAX_VIOLATIONS."""
        if self.holds:
            return "holds"
        count = len(self.violations)
        if count >= MAX_VIOLATIONS:
            return f"at least {count} violations"
        return "1 violation" if count == 1 else f"{count} violations"


def invariants(report: Json) -> list[Invariant]:
    return [
        Invariant(
            **each,
            violations=[found for found in report["violations"] if found["invariant"] == each["number"]],
        )
        for each in report["invariants"]
    ]
