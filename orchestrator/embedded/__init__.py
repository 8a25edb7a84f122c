"""The embedded stack: PostgreSQL, Temporal, workers and API under a process supervisor.

stack = Stack(settings)
stack.up()                      # healthy when it returns
stack.kill("order-worker-1")    # and the supervisor starts it again
stack.down()                    # the data stays
"""

from orchestrator.embedded.component import Component, ComponentStatus, RunningProcess, Stage
from orchestrator.embedded.health_checks import Probes
from orchestrator.embedded.migrations import migrate
from orchestrator.embedded.stack import Stack

__all__ = ["Component", "ComponentStatus", "Probes", "RunningProcess", "Stack", "Stage", "migrate"]
