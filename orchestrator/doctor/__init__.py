"""What is wrong with a system, in plain words, and what to do about it.

`probes` takes the readings, `diagnose` judges them: a pure function, so that each finding can also be shown
without the trouble it stands for.
"""

from orchestrator.doctor.findings import Finding, diagnose
from orchestrator.doctor.probes import take
from orchestrator.doctor.readings import Readings

__all__ = ["Finding", "Readings", "diagnose", "take"]
