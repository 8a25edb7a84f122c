"""Finds orders whose workflow is closed but that have no outcome, and starts a ReconcileWorkflow for each.

A loop in every order worker rather than a scheduled workflow: a pass with nothing to do costs one indexed
query, while a schedule would write workflow history each time. Several workers can find the same order; the
workflow id lets only one of them start the reconciliation.
"""

import asyncio
from datetime import UTC, datetime, timedelta
from time import monotonic

import structlog
from temporalio.client import Client, WorkflowExecution, WorkflowExecutionStatus
from temporalio.common import WorkflowIDConflictPolicy, WorkflowIDReusePolicy
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError

from db import audit as audit_database
from db.database import Database
from db.maintenance.stale_orders import StaleOrder, stale_orders
from orchestrator.errors import PayloadUnreadable, ServiceUnavailable
from orchestrator.messages import (
    ORDER_WORKFLOW_PREFIX,
    ReconcileRequest,
    order_workflow_id,
    reconcile_workflow_id,
)
from orchestrator.temporal_client import temporal_errors
from orchestrator.worker.metrics import WorkerMetrics
from orchestrator.workflow_lookup import is_running, latest_status, started_order
from orchestrator.workflows.step_execution import WORKFLOW_TASK_TIMEOUT

INTERVAL_SECONDS = 1.0

SEARCH_INTERVAL_SECONDS = 5.0
"""How often to search Temporal for workflows that closed before their order was inserted. Temporal scans all
recently closed workflows for it (docs/decisions/0011)."""

FIRST_SEARCH_WINDOW = timedelta(hours=24)
"""How far back a worker's first search goes: Temporal's default retention of closed workflows, to find those
that closed while no worker ran."""

SEARCH_OVERLAP = timedelta(minutes=5)
"""How far each search reaches behind the previous one: Temporal lists a closed workflow with a delay, and its
clock can differ from ours."""

PAGE_SIZE = 100
"""Stale orders per pass; the next pass continues with the next page."""

STALE_AFTER_SECONDS = 3.0
"""How long after its last event an order without outcome is checked."""

log = structlog.get_logger()


class Reconciler:
    def __init__(
        self, database: Database, client: Client, task_queue: str, metrics: WorkerMetrics | None = None
    ) -> None:
        self._database = database
        self._client = client
        self._task_queue = task_queue
        self._metrics = metrics or WorkerMetrics()
        self._page_end: StaleOrder | None = None
        self._searched_at: datetime | None = None
        self._seen_run_ids: set[str] = set()

    async def run(self) -> None:
        """Run a pass every second, forever, whether or not the last one failed."""
        search_at = 0.0
        while True:
            try:
                search = monotonic() >= search_at
                self._metrics.orders_reconciled(await self.run_once(search=search))
                if search:
                    search_at = monotonic() + SEARCH_INTERVAL_SECONDS
            except (ServiceUnavailable, RPCError) as error:
                self._metrics.reconciler_failed()
                log.warning("reconciler pass failed", error=str(error))
            except Exception:
                # If this loop ended, orders without a workflow would never be finished.
                self._metrics.reconciler_failed()
                log.exception("reconciler pass failed")
            await asyncio.sleep(INTERVAL_SECONDS)

    async def run_once(self, *, search: bool = True) -> int:
        """Start a reconciling workflow for each orphaned order; return how many were started.

        With `search`, also for orders that were never inserted, which costs Temporal more.
        """
        started = 0
        for order in await self._next_page():
            cause = await self._closing_cause(order.order_id)
            if cause is not None:
                started += await self._reconcile(ReconcileRequest(order.order_id, cause, order.run_id))
        return started + (await self._reconcile_never_inserted() if search else 0)

    async def _next_page(self) -> list[StaleOrder]:
        """Return the next page of stale orders; the first one again after the last.

        Orders in a manual review are stale too, so an orphaned order can be on any page.
        """
        page = await stale_orders(self._database, STALE_AFTER_SECONDS, after=self._page_end, limit=PAGE_SIZE)
        self._page_end = page[-1] if len(page) == PAGE_SIZE else None
        return page

    async def _closing_cause(self, order_id: str) -> str | None:
        """Return how the order's workflow closed, or None while it runs."""
        status = await latest_status(self._client, order_workflow_id(order_id))
        if status is WorkflowExecutionStatus.RUNNING:
            return None
        return f"the workflow is {status.name.lower() if status else 'unknown to Temporal'}"

    async def _reconcile_never_inserted(self) -> int:
        now = datetime.now(UTC)
        since = now - FIRST_SEARCH_WINDOW if self._searched_at is None else self._searched_at - SEARCH_OVERLAP
        query = (
            "WorkflowType = 'OrderWorkflow' AND ExecutionStatus IN ('Terminated', 'TimedOut', 'Failed')"
            f" AND CloseTime >= '{since.isoformat()}'"
        )
        with temporal_errors():
            found = [execution async for execution in self._client.list_workflows(query)]
        unseen = [
            (execution.id.removeprefix(ORDER_WORKFLOW_PREFIX), execution)
            for execution in found
            if execution.run_id not in self._seen_run_ids
        ]
        known = await audit_database.known_orders(self._database, [order_id for order_id, _ in unseen])
        started = 0
        unreadable = set()
        for order_id, execution in unseen:
            if order_id not in known:
                try:
                    request = await self._never_inserted(order_id, execution)
                except PayloadUnreadable as error:
                    # Retried at every search, until the key is configured.
                    log.warning("workflow input cannot be decrypted", order_id=order_id, error=str(error))
                    unreadable.add(execution.run_id)
                    continue
                if request is not None:
                    started += await self._reconcile(request)
        # Only after a complete search. Otherwise the next search covers this period again.
        if not unreadable:
            self._searched_at = now
        self._seen_run_ids = {execution.run_id for execution in found} - unreadable
        return started

    async def _never_inserted(self, order_id: str, execution: WorkflowExecution) -> ReconcileRequest | None:
        """Return the request that inserts and finishes the order of a closed workflow.

        None if the workflow was not an order, or if a later run continues it.
        """
        started = await started_order(self._client, execution)
        if started is None or await is_running(self._client, execution.id):
            return None
        order = started.order
        status = execution.status.name.lower() if execution.status else "closed"
        new_order = order.new_order(started.first_run_id, execution.start_time)
        return ReconcileRequest(order_id, f"the workflow is {status}", order.run_id, new_order)

    async def _reconcile(self, request: ReconcileRequest) -> bool:
        try:
            with temporal_errors():
                await self._client.start_workflow(
                    "ReconcileWorkflow",
                    request,
                    id=reconcile_workflow_id(request.order_id),
                    task_queue=self._task_queue,
                    task_timeout=WORKFLOW_TASK_TIMEOUT,
                    id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE_FAILED_ONLY,
                    id_conflict_policy=WorkflowIDConflictPolicy.FAIL,
                )
        except WorkflowAlreadyStartedError:
            return False
        log.warning(
            "order without a running workflow is finished", order_id=request.order_id, cause=request.cause
        )
        return True
