"""Compares Temporal's order workflows with the order database (invariants 1 and 2)."""

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

from temporalio.client import Client, WorkflowExecution, WorkflowExecutionStatus, WorkflowFailureError
from temporalio.exceptions import ApplicationError

from db.database import Database, Row
from db.domain import State
from db.maintenance.audit import DatabaseAudit, Violation, known_orders
from orchestrator.audit.workflow_list import CLOSED, RUNNING, list_chunks, list_filter
from orchestrator.errors import PayloadUnreadable
from orchestrator.messages.ids import order_id_of, order_workflow_id, reconcile_workflow_id
from orchestrator.messages.orders import NOT_AN_ORDER, OrderResult
from orchestrator.temporal.client import temporal_errors
from orchestrator.temporal.workflow_lookup import is_running, started_order

RECONCILER_TIME = timedelta(seconds=10)
"""Time for the reconciler to close an order whose workflow was terminated. It takes about 5 s: the order
counts as stale after 2 s, and a second look follows 2 to 3 s later. The order counts as open for twice that
time."""

CLOSING_TIME = timedelta(seconds=10)
"""How long a workflow may take to close after its order has the outcome. When its worker dies in between,
another worker takes over within 5 s."""

LISTING_SECONDS = 5.0
"""How long an audit of a run waits until Temporal's list shows the workflows of its orders as closed."""

LISTING_INTERVAL_SECONDS = 0.25

MAX_LISTING_DELAY = timedelta(minutes=1)
"""Maximum delay of Temporal's list. If a workflow closed earlier and is missing, Temporal has deleted it
after the retention period."""


class TemporalComparison:
    """`run` compares all workflows and fills the attributes.

    `checked` counts closed workflows, `running` running ones, `compared` the finished orders whose workflow
    was checked. `in_reconciliation` are ids of orders that are not closed yet: the reconciler is about to
    close them, or a later workflow run continues them.
    """

    def __init__(
        self,
        database: Database,
        client: Client,
        run_id: str | None,
        database_audit: DatabaseAudit,
        task_queue: str | None,
    ) -> None:
        self._database = database
        self._client = client
        self._run_id = run_id
        self._task_queue = task_queue
        self._database_audit = database_audit
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
            here = self._database_audit.finished - self._database_audit.finished_elsewhere
            is_complete = self.compared >= here or not self._finished_recently()
            if self._run_id is None or is_complete or time.monotonic() >= not_after:
                break
            await asyncio.sleep(LISTING_INTERVAL_SECONDS)
        await self._compare_running()

    def _finished_recently(self) -> bool:
        last = self._database_audit.last_finished_at
        return last is not None and self._database_audit.read_at - last < MAX_LISTING_DELAY

    def _list(self, status_filter: str) -> AsyncIterator[list[WorkflowExecution]]:
        return list_chunks(self._client, list_filter(status_filter, self._run_id, self._task_queue))

    async def _compare_closed(self) -> None:
        async for listed in self._list(CLOSED):
            chunk = [execution for execution in listed if execution.run_id not in self._seen]
            known = await known_orders(self._database, [order_id_of(execution.id) for execution in chunk])
            await asyncio.gather(
                *(self._compare(execution, known.get(order_id_of(execution.id))) for execution in chunk)
            )
            self.checked += len(chunk)
            if self._run_id is not None:
                # An audit of all orders lists them once, and would need too much memory for their ids.
                self._seen |= {execution.run_id for execution in chunk}

    async def _compare_running(self) -> None:
        """Find orders with an outcome whose workflow is still running after CLOSING_TIME."""
        async for chunk in self._list(RUNNING):
            self.running += len(chunk)
            known = await known_orders(self._database, [order_id_of(execution.id) for execution in chunk])
            for execution in chunk:
                order = known.get(order_id_of(execution.id))
                if order is None or not self._was_finished(execution, order, before=CLOSING_TIME):
                    continue
                # Temporal updates its list with a delay.
                if await is_running(self._client, execution.id):
                    evidence = _evidence(execution, order) | {"finished_at": order["finished_at"].isoformat()}
                    finding = f"the order is {order['state']}, its workflow is still running"
                    self.violations.append(Violation(2, order["order_id"], finding, evidence))

    def _was_finished(self, execution: WorkflowExecution, order: Row, before: timedelta) -> bool:
        """Return whether the workflow's order had its outcome `before` the database was audited."""
        if order["workflow_run_id"] != execution.run_id or order["finished_at"] is None:
            return False
        was_finished: bool = self._database_audit.read_at - order["finished_at"] >= before
        return was_finished

    async def _compare(self, execution: WorkflowExecution, order: Row | None) -> None:
        """Compare a closed workflow with its order."""
        if order is not None and self._was_finished(execution, order, before=timedelta(0)):
            self.compared += 1
        result, error_type = await self._result(execution)
        if error_type in NOT_AN_ORDER:
            return
        order_id = order_id_of(execution.id)
        accepted_in = execution.run_id
        if order is None or order["workflow_run_id"] != execution.run_id:
            first_run_id = await self._first_run_id(execution)
            if first_run_id is None:
                return
            accepted_in = first_run_id
        if order is None or not State(order["state"]).is_terminal:
            if _closed_recently(execution) or await self._is_in_reconciliation(order_id):
                self.in_reconciliation.append(order_id)
                return
            # The reconciler may have closed the order since the first query.
            order = (await known_orders(self._database, [order_id])).get(order_id)
        if found := _find_violation(execution, accepted_in, result, order):
            invariant, finding, evidence = found
            self.violations.append(Violation(invariant, order_id, finding, evidence))

    async def _result(self, execution: WorkflowExecution) -> tuple[OrderResult | None, str | None]:
        """Return the result of a closed workflow, or the type of the error with which it failed; (None, None)
        when it neither completed nor failed."""
        if execution.status not in (WorkflowExecutionStatus.COMPLETED, WorkflowExecutionStatus.FAILED):
            return None, None
        handle = self._client.get_workflow_handle(
            execution.id, run_id=execution.run_id, result_type=OrderResult
        )
        try:
            with temporal_errors():
                return await handle.result(), None
        except WorkflowFailureError as error:
            return None, error.cause.type if isinstance(error.cause, ApplicationError) else None

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


def _find_violation(
    execution: WorkflowExecution, accepted_in: str, result: OrderResult | None, order: Row | None
) -> tuple[int, str, Row] | None:
    """Return invariant, finding and evidence. `accepted_in` is the workflow run that accepted the order."""
    evidence = _evidence(execution, order)
    status = evidence["status"]
    if order is None:
        return 1, f"the workflow is {status}, and there is no order", evidence
    state, reason = State(order["state"]), order["abort_reason"]
    if not state.is_terminal:
        return 2, f"the workflow is {status}, the order is still {state}", evidence
    if order["workflow_run_id"] not in (execution.run_id, accepted_in):
        return 1, "a second workflow ran for the order", evidence
    if result is not None and result.outcome is not state:
        evidence["workflow_result"] = result.outcome.value
        return 2, f"the workflow returned {result.outcome}, the order is {state}", evidence
    if result is not None and result.reason != reason:
        evidence["workflow_reason"] = result.reason
        return 2, f"the workflow's reason is {result.reason}, the order's reason is {reason}", evidence
    return None


def _evidence(execution: WorkflowExecution, order: Row | None) -> Row:
    status = execution.status.name.lower() if execution.status else "unknown"
    evidence: Row = {"workflow": execution.id, "run": execution.run_id, "status": status}
    return (
        evidence if order is None else evidence | {"order": order["state"], "reason": order["abort_reason"]}
    )


def _closed_recently(execution: WorkflowExecution) -> bool:
    """Return whether the workflow closed without completing, less than RECONCILER_TIME ago."""
    if execution.status is WorkflowExecutionStatus.COMPLETED or execution.close_time is None:
        return False
    return datetime.now(UTC) - execution.close_time < RECONCILER_TIME
