"""Find out what is wrong with a system and advise what to do.

`observe` collects the facts. `diagnose` is a pure function from those facts to findings.
"""

from orchestrator.operations.doctor.findings import Finding, diagnose
from orchestrator.operations.doctor.observations import Observations
from orchestrator.operations.doctor.observer import observe

__all__ = ["Finding", "Observations", "diagnose", "observe"]
