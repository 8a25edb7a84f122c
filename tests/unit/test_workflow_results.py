"""The audit's cache of workflow results."""

from typing import Any, cast
from uuid import uuid4

import pytest
from temporalio.client import Client, WorkflowExecution, WorkflowExecutionStatus

from db.domain import State
from orchestrator.audit import workflow_results
from orchestrator.messages import OrderResult


class FakeTemporal:
    """Every workflow has completed. Counts the calls."""

    def __init__(self) -> None:
        self.runs: list[str] = []

    def get_workflow_handle(self, workflow_id: str, *, run_id: str, result_type: type) -> "FakeTemporal":
        assert result_type is OrderResult
        self.runs.append(run_id)
        self.workflow_id = workflow_id
        return self

    async def result(self) -> OrderResult:
        return OrderResult(self.workflow_id, State.COMPLETED, None, 1_000)


def execution(run_id: str, workflow_id: str = "order-a") -> WorkflowExecution:
    fields: dict[str, Any] = {
        "id": workflow_id, "run_id": run_id, "status": WorkflowExecutionStatus.COMPLETED
    }  # fmt: skip
    return cast(WorkflowExecution, type("Execution", (), fields)())


async def test_the_result_of_a_workflow_run_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workflow_results, "MAX_ENTRIES", 2)
    monkeypatch.setattr(workflow_results, "_results", type(workflow_results._results)())
    temporal = FakeTemporal()
    client = cast(Client, temporal)
    one, two, three = (f"{uuid4()}" for _ in range(3))
    for run_id in (one, one, two, one):
        result, error = await workflow_results.result_of(client, execution(run_id))
        assert (result and result.outcome, error) == (State.COMPLETED, None)
    assert temporal.runs == [one, two], "each run of a workflow has its own result"
    await workflow_results.result_of(client, execution(three))
    await workflow_results.result_of(client, execution(one))
    assert temporal.runs == [one, two, three, one], "the oldest entry is dropped"
