"""The embedded stack: PostgreSQL, Temporal, workers and API under a process supervisor.

stack = Stack(settings)
stack.up()                      # healthy when it returns
stack.kill("order-worker-1")    # and the supervisor starts it again
stack.down()                    # the data stays
"""

from orchestrator.stack.component import Component, ComponentStatus, RunningProcess, Stage
from orchestrator.stack.health import Probes
from orchestrator.stack.migrations import migrate
from orchestrator.stack.stack import Stack

__all__ = ["Component", "ComponentStatus", "Probes", "RunningProcess", "Stack", "Stage", "migrate"]
