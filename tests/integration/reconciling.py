"""A stub of Temporal for the reconciler, which records its calls."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

from temporalio.api.common.v1 import Payload
from temporalio.api.history.v1 import HistoryEvent
from temporalio.client import WorkflowExecutionStatus, WorkflowHistory
from temporalio.converter import DataConverter, DefaultPayloadConverter
from temporalio.exceptions import WorkflowAlreadyStartedError

from db.database import Database
from orchestrator.worker.reconciler import Reconciler
from tests.orders import TEMPORAL

DATABASE_ID = "1d0ee4ce-4b34-4b0a-9d5b-3d5c1c6fbe7f"


@dataclass
class Temporal:
    """A stub on which every workflow of an order runs except those in `ended`. It records its calls."""

    data_converter = DataConverter.default
    namespace = TEMPORAL.name
    cluster_id: str = TEMPORAL.cluster_id
    ended: set[str] = field(default_factory=set)
    reset: set[str] = field(default_factory=set)
    """Workflows whose first run has ended and whose second one runs."""

    unopened: list[Any] = field(default_factory=list)
    inputs: dict[str, list[Payload]] = field(default_factory=dict)
    described: list[str] = field(default_factory=list)
    queries: list[str] = field(default_factory=list)
    started: list[str] = field(default_factory=list)
    """Orders whose ReconcileWorkflow was started, and runs until it is in `ended`."""

    failures: dict[str, Exception] = field(default_factory=dict)
    """Errors of lookups, by workflow id."""

    start_error: Exception | None = None
    cluster_error: Exception | None = None

    @property
    def workflow_service(self) -> Any:
        async def get_cluster_info(*_: Any, **__: Any) -> Any:
            if self.cluster_error is not None:
                raise self.cluster_error
            return SimpleNamespace(cluster_id=self.cluster_id)

        return SimpleNamespace(get_cluster_info=get_cluster_info)

    def get_workflow_handle(self, workflow_id: str, *, run_id: str | None = None) -> Any:
        async def describe() -> Any:
            if workflow_id in self.failures:
                raise self.failures[workflow_id]
            if workflow_id.startswith("reconcile-"):
                is_running = workflow_id.removeprefix("reconcile-") in self.started
                status = WorkflowExecutionStatus.RUNNING if is_running else WorkflowExecutionStatus.FAILED
                return SimpleNamespace(status=status)
            order_id = workflow_id.removeprefix("order-")
            self.described.append(order_id)
            has_ended = order_id in self.ended or (run_id is not None and order_id in self.reset)
            status = WorkflowExecutionStatus.TERMINATED if has_ended else WorkflowExecutionStatus.RUNNING
            return SimpleNamespace(status=status)

        async def fetch_history() -> WorkflowHistory:
            if workflow_id in self.failures:
                raise self.failures[workflow_id]
            started, ended = HistoryEvent(), HistoryEvent()
            payloads = self.inputs[workflow_id]
            started.workflow_execution_started_event_attributes.input.payloads.extend(payloads)
            ended.workflow_execution_terminated_event_attributes.reason = "by an operator"
            return WorkflowHistory(workflow_id, [started, ended])

        return SimpleNamespace(describe=describe, fetch_history=fetch_history)

    def terminated(self, workflow_id: str, *inputs: object) -> None:
        """Add a workflow that was terminated before a worker processed it."""
        self.ended.add(workflow_id.removeprefix("order-"))
        self.inputs[workflow_id] = DefaultPayloadConverter().to_payloads(inputs)
        status = WorkflowExecutionStatus.TERMINATED
        self.unopened.append(
            SimpleNamespace(
                id=workflow_id,
                run_id=workflow_id,
                status=status,
                start_time=datetime.now(UTC),
                close_time=datetime.now(UTC),
            )
        )

    async def list_workflows(self, query: str) -> AsyncIterator[Any]:
        self.queries.append(query)
        for execution in self.unopened:
            yield execution

    async def start_workflow(self, _workflow: str, request: Any, **_: Any) -> None:
        if self.start_error is not None:
            raise self.start_error
        if request.order_id in self.started:
            raise WorkflowAlreadyStartedError(request.order_id, "ReconcileWorkflow")
        self.started.append(request.order_id)

    @property
    def searched_since(self) -> list[datetime]:
        return [datetime.fromisoformat(query.rsplit("'", 2)[1]) for query in self.queries]


def new_reconciler(
    pool: Database, temporal: Any, leader: str = "worker-1", max_orphans: int = 20
) -> Reconciler:
    return Reconciler(
        pool,
        temporal,
        TEMPORAL,
        leader=leader,
        task_queue="order-tq",
        database_id=DATABASE_ID,
        max_orphans=max_orphans,
    )
