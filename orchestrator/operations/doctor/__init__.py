"""What is wrong with a system, in plain words, and what to do about it.

`probes` takes the readings, `diagnose` judges them: a pure function, so that each finding can also be shown
without the trouble it stands for.
"""

from orchestrator.operations.doctor.findings import Finding, diagnose
from orchestrator.operations.doctor.probes import take
from orchestrator.operations.doctor.readings import Readings

__all__ = ["Finding", "Readings", "diagnose", "take"]
