"""The report of the doctor."""

from dataclasses import dataclass, field

from orchestrator.startup.findings import Finding


@dataclass
class Report:
    """Findings, and lines with measurements for people."""

    findings: list[Finding] = field(default_factory=list)
    measurements: list[str] = field(default_factory=list)
