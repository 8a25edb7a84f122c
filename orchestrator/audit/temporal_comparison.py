"""Compares Temporal's order workflows with the order database (invariants 1 and 2)."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from temporalio.client import Client, WorkflowExecution, WorkflowExecutionStatus

from db.audit import DatabaseAudit, Violation, known_orders
from db.database import Database, Row
from db.domain import State
from orchestrator.audit.workflow_list import closed_workflows, list_chunks, running_workflows
from orchestrator.audit.workflow_results import result_of
from orchestrator.errors import PayloadUnreadable
from orchestrator.messages import (
    NOT_AN_ORDER,
    ORDER_WORKFLOW_PREFIX,
    order_workflow_id,
    reconcile_workflow_id,
)
from orchestrator.workflow_lookup import is_running, started_order

RECONCILER_TIME = timedelta(seconds=10)
"""How long the reconciler may take to detect a workflow that was terminated: an order counts as stale after 3
s, the reconciler polls every second, and this leaves the same time again. Until then the order counts as
open."""

CLOSING_TIME = timedelta(seconds=10)
"""How long a workflow may take to close after its order has the outcome. When its worker dies in between,
another worker takes over within 5 s."""

LISTING_SECONDS = 5.0
"""How long an audit of a run waits until Temporal's list shows the workflows of its orders as closed."""

LISTING_INTERVAL_SECONDS = 0.25

LISTED_BY_NOW = timedelta(minutes=1)
"""A workflow that closed earlier and is missing in Temporal's list was deleted after the retention."""

Progress = Callable[[int], None]
"""Called with the number of workflows checked so far."""


@dataclass(frozen=True)
class _InReconciliation:
    """An order whose workflow was terminated or reset: the reconciler is about to close it, or a later
    workflow run continues it."""

    order_id: str


class TemporalComparison:
    """`run` compares all workflows and fills the attributes.

    `checked` counts closed workflows, `running` running ones, `compared` the finished orders whose workflow
    was checked. `in_reconciliation` are ids of orders that are not closed yet.
    """

    def __init__(
        self,
        database: Database,
        client: Client,
        run_id: str | None,
        database_audit: DatabaseAudit,
        progress: Progress | None,
    ) -> None:
        self._database = database
        self._client = client
        self._run_id = run_id
        self._database_audit = database_audit
        self._progress = progress
        self._seen: set[str] = set()
        """Workflow run ids of a run's earlier listings."""

        self.checked = 0
        self.compared = 0
        self.running = 0
        self.violations: list[Violation] = []
        self.in_reconciliation: list[str] = []

    async def run(self) -> None:
        not_after = time.monotonic() + LISTING_SECONDS
        while True:
            await self._compare_closed()
            is_complete = self.compared >= self._database_audit.finished or not self._finished_recently()
            if self._run_id is None or is_complete or time.monotonic() >= not_after:
                break
            await asyncio.sleep(LISTING_INTERVAL_SECONDS)
        await self._compare_running()

    def _finished_recently(self) -> bool:
        last = self._database_audit.last_finished_at
        return last is not None and self._database_audit.read_at - last < LISTED_BY_NOW

    async def _compare_closed(self) -> None:
        query = closed_workflows(
            self._run_id, self._database_audit.since, self._database_audit.run_started_at
        )
        async for listed in list_chunks(self._client, query, self._run_id):
            chunk = [execution for execution in listed if execution.run_id not in self._seen]
            order_ids = [order_id_of(execution) for execution in chunk]
            known = await known_orders(self._database, order_ids)
            found = await asyncio.gather(
                *(
                    self._compare(execution, order_id, known.get(order_id))
                    for execution, order_id in zip(chunk, order_ids, strict=True)
                )
            )
            self.violations += [each for each in found if isinstance(each, Violation)]
            self.in_reconciliation += [each.order_id for each in found if isinstance(each, _InReconciliation)]
            self.checked += len(chunk)
            self.compared += sum(
                self._had_outcome(execution, known.get(order_id))
                for execution, order_id in zip(chunk, order_ids, strict=True)
            )
            if self._run_id is not None:
                # An audit of all orders lists them once, and would need too much memory for their ids.
                self._seen |= {execution.run_id for execution in chunk}
            if self._progress is not None:
                self._progress(self.checked)

    def _had_outcome(self, execution: WorkflowExecution, order: Row | None) -> bool:
        """Return whether the workflow belongs to an order that had its outcome when the database was
        audited."""
        if order is None or order["workflow_run_id"] != execution.run_id or order["finished_at"] is None:
            return False
        had_outcome: bool = order["finished_at"] <= self._database_audit.read_at
        return had_outcome

    async def _compare_running(self) -> None:
        """Find orders with an outcome whose workflow is still running after CLOSING_TIME."""
        query = running_workflows(
            self._run_id, self._database_audit.since, self._database_audit.run_started_at
        )
        async for chunk in list_chunks(self._client, query, self._run_id):
            self.running += len(chunk)
            known = await known_orders(self._database, [order_id_of(execution) for execution in chunk])
            for execution in chunk:
                order = known.get(order_id_of(execution))
                if order is None or not self._should_be_closed(execution, order):
                    continue
                # The list may lag behind.
                if await is_running(self._client, execution.id):
                    self.violations.append(_still_running(execution, order))

    def _should_be_closed(self, execution: WorkflowExecution, order: Row) -> bool:
        if order["workflow_run_id"] != execution.run_id or order["finished_at"] is None:
            return False
        is_overdue: bool = self._database_audit.read_at - order["finished_at"] > CLOSING_TIME
        return is_overdue

    async def _compare(
        self, execution: WorkflowExecution, order_id: str, order: Row | None
    ) -> Violation | _InReconciliation | None:
        """Compare a closed workflow with its order."""
        result, error_type = await result_of(self._client, execution)
        if error_type in NOT_AN_ORDER:
            return None
        accepted_in = execution.run_id
        if order is None or order["workflow_run_id"] != execution.run_id:
            first_run_id = await self._first_run_id(execution)
            if first_run_id is None:
                return None
            accepted_in = first_run_id
        if not _is_finished(order):
            if _closed_recently(execution) or await self._is_in_reconciliation(order_id):
                return _InReconciliation(order_id)
            # The reconciler may have closed the order since the first query.
            order = (await known_orders(self._database, [order_id])).get(order_id)
        status = execution.status.name.lower() if execution.status else "unknown"
        evidence: Row = {"workflow": execution.id, "run": execution.run_id, "status": status}
        if order is None:
            return Violation(1, order_id, f"the workflow is {status}, and there is no order", evidence)
        state = State(order["state"])
        evidence |= {"order": state.value, "reason": order["abort_reason"]}
        if not state.is_terminal:
            return Violation(2, order_id, f"the workflow is {status}, the order is still {state}", evidence)
        if order["workflow_run_id"] not in (execution.run_id, accepted_in):
            return Violation(1, order_id, "a second workflow ran for the order", evidence)
        if result is not None and result.outcome is not state:
            evidence["workflow_result"] = result.outcome.value
            finding = f"the workflow returned {result.outcome}, the order is {state}"
            return Violation(2, order_id, finding, evidence)
        if result is not None and result.reason != order["abort_reason"]:
            evidence["workflow_reason"] = result.reason
            finding = (
                f"the workflow's reason is {result.reason}, the order's reason is {order['abort_reason']}"
            )
            return Violation(2, order_id, finding, evidence)
        return None

    async def _first_run_id(self, execution: WorkflowExecution) -> str | None:
        """Return the workflow run that accepted the order; None when the workflow was not an order."""
        try:
            started = await started_order(self._client, execution)
        except PayloadUnreadable:
            # Without the key it is unknown whether the workflow was an order. It is treated as one.
            return execution.run_id
        return None if started is None else started.first_run_id

    async def _is_in_reconciliation(self, order_id: str) -> bool:
        """Return whether the order's ReconcileWorkflow is running, or a later run of its own workflow."""
        workflow_ids = (reconcile_workflow_id(order_id), order_workflow_id(order_id))
        return any([await is_running(self._client, workflow_id) for workflow_id in workflow_ids])


def order_id_of(execution: WorkflowExecution) -> str:
    return execution.id.removeprefix(ORDER_WORKFLOW_PREFIX)


def _still_running(execution: WorkflowExecution, order: Row) -> Violation:
    evidence: Row = {
        "workflow": execution.id,
        "run": execution.run_id,
        "status": "running",
        "order": order["state"],
        "reason": order["abort_reason"],
        "finished_at": order["finished_at"].isoformat(),
    }
    finding = f"the order is {order['state']}, its workflow is still running"
    return Violation(2, order["order_id"], finding, evidence)


def _is_finished(order: Row | None) -> bool:
    return order is not None and State(order["state"]).is_terminal


def _closed_recently(execution: WorkflowExecution) -> bool:
    """Return whether the workflow closed without completing, and the reconciler may not have detected it
    yet."""
    if execution.status is WorkflowExecutionStatus.COMPLETED or execution.close_time is None:
        return False
    return datetime.now(UTC) - execution.close_time < RECONCILER_TIME
