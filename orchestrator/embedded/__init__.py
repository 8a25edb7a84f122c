"""The embedded stack: PostgreSQL, Temporal, workers, API and user interfaces under a process supervisor.

stack = Stack(settings)
stack.up()                      # returns when every component is healthy
stack.kill("order-worker-1")    # the supervisor restarts it
stack.down()                    # the data remains
"""

from orchestrator.embedded.component import Component, ComponentStatus, RunningProcess, Stage
from orchestrator.embedded.health_checks import HealthChecks
from orchestrator.embedded.migrations import migrate
from orchestrator.embedded.stack import Stack

__all__ = ["Component", "ComponentStatus", "HealthChecks", "RunningProcess", "Stack", "Stage", "migrate"]
