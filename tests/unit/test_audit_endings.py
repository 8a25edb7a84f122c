"""What the audit remembers of closed workflows."""

from typing import Any, cast
from uuid import uuid4

import pytest
from temporalio.client import Client, WorkflowExecution, WorkflowExecutionStatus

from db.domain import State
from orchestrator import audit
from orchestrator.messages import OrderResult


class Asked:
    """Stands in for Temporal: every workflow has completed, and each question is counted."""

    def __init__(self) -> None:
        self.runs: list[str] = []

    def get_workflow_handle(self, workflow_id: str, *, run_id: str, result_type: type) -> "Asked":
        assert result_type is OrderResult
        self.runs.append(run_id)
        self.workflow_id = workflow_id
        return self

    async def result(self) -> OrderResult:
        return OrderResult(self.workflow_id, State.COMPLETED, None, 1_000)


def execution(run_id: str, workflow_id: str = "order-a") -> WorkflowExecution:
    known: dict[str, Any] = {"id": workflow_id, "run_id": run_id, "status": WorkflowExecutionStatus.COMPLETED}
    return cast(WorkflowExecution, type("Execution", (), known)())


async def test_how_a_workflow_run_ended_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "ENDINGS_KEPT", 2)
    monkeypatch.setattr(audit, "_endings", type(audit._endings)())
    temporal = Asked()
    client = cast(Client, temporal)
    one, two, three = (f"{uuid4()}" for _ in range(3))
    for run_id in (one, one, two, one):
        result, error = await audit._ending(client, execution(run_id))
        assert (result and result.outcome, error) == (State.COMPLETED, None)
    assert temporal.runs == [one, two], "a second run of the same workflow is another one"
    await audit._ending(client, execution(three))
    await audit._ending(client, execution(one))
    assert temporal.runs == [one, two, three, one], "the oldest is forgotten"
