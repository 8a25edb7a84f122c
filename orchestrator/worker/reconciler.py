"""Finds orders whose workflow is closed and whose books are not, and has each of them closed.

A loop in every order worker, rather than a scheduled workflow: looking costs one indexed query while
there is nothing to find, where a schedule would cost workflow-history writes at every look. Several
workers may find the same order; the id of the reconciling workflow lets only one act.
"""

import asyncio
from datetime import UTC, datetime, timedelta
from time import monotonic

import structlog
from temporalio.client import Client, WorkflowExecution, WorkflowExecutionStatus
from temporalio.common import WorkflowIDConflictPolicy, WorkflowIDReusePolicy
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from db import audit as audit_database
from db.database import Database
from db.maintenance.stale_orders import StaleOrder, stale_orders
from orchestrator.errors import PayloadUnreadable, ServiceUnavailable
from orchestrator.messages import OpenRequest, ReconcileRequest
from orchestrator.temporal_client import temporal_errors
from orchestrator.worker.metrics import WorkerMetrics
from orchestrator.workflow_ids import ORDER_WORKFLOW_PREFIX, order_workflow_id, reconcile_workflow_id
from orchestrator.workflow_lookup import is_running, started_order
from orchestrator.workflows.step_execution import WORKFLOW_TASK_TIMEOUT

LOOK_EVERY_SECONDS = 1.0

SEARCH_EVERY_SECONDS = 5.0
"""How often Temporal is asked for workflows that ended before their order was in the books: seldom, since it
goes through all that have closed lately (docs/decisions/0011)."""

FIRST_LOOK_BEHIND = timedelta(hours=24)
"""How far back the first look of a worker searches closed workflows for orders that never got into the books:
as long as Temporal keeps closed workflows by default. What closed while no worker ran is in there."""

LOOK_OVERLAP = timedelta(minutes=5)
"""How far each later look reaches behind the last one that succeeded: Temporal lists a workflow a moment
after it closed, and its clock need not be ours."""

STALE_PAGE = 100
"""Silent orders whose workflows one look asks for; the next look goes on with the next ones."""

QUIET_SECONDS = 3.0
"""How long an open order may be silent before its workflow is asked for."""

log = structlog.get_logger()


class Reconciler:
    def __init__(
        self, database: Database, client: Client, task_queue: str, metrics: WorkerMetrics | None = None
    ) -> None:
        self._database = database
        self._client = client
        self._task_queue = task_queue
        self._metrics = metrics or WorkerMetrics()
        self._asked_up_to: StaleOrder | None = None
        self._searched_at: datetime | None = None
        self._seen: set[str] = set()

    async def run(self) -> None:
        """Looks forever, about once a second, whatever happened at the last look."""
        search_at = 0.0
        while True:
            try:
                search = monotonic() >= search_at
                self._metrics.orders_reconciled(await self.look(search=search))
                if search:
                    search_at = monotonic() + SEARCH_EVERY_SECONDS
            except (ServiceUnavailable, RPCError) as error:
                self._metrics.reconciler_failed()
                log.warning("reconciler could not look", error=str(error))
            except Exception:
                # Without this loop lost orders would stay lost, and nobody would know.
                self._metrics.reconciler_failed()
                log.exception("reconciler could not look")
            await asyncio.sleep(LOOK_EVERY_SECONDS)

    async def look(self, *, search: bool = True) -> int:
        """Starts a reconciling workflow for each orphaned order, and returns how many it started.

        With `search` also for those that never got into the books, which costs Temporal more.
        """
        started = 0
        for order in await self._next_silent():
            why = await self._how_it_ended(order.order_id)
            if why is not None:
                started += await self._reconcile(ReconcileRequest(order.order_id, why, order.run_id))
        return started + (await self._close_never_opened() if search else 0)

    async def _next_silent(self) -> list[StaleOrder]:
        """The next page of silent orders, and after the last page the first one again.

        Orders that wait for a person are silent and well, so the orphan may be on any page.
        """
        after = self._asked_up_to
        page = await stale_orders(self._database, QUIET_SECONDS, after=after, limit=STALE_PAGE)
        self._asked_up_to = page[-1] if len(page) == STALE_PAGE else None
        return page

    async def _how_it_ended(self, order_id: str) -> str | None:
        """How the order's workflow closed; None while it runs."""
        # Its latest run, and not the one in the books: when an operator resets a workflow, that one is
        # terminated and the order goes on in another.
        handle = self._client.get_workflow_handle(order_workflow_id(order_id))
        try:
            with temporal_errors():
                execution = await handle.describe()
        except RPCError as error:
            if error.status is RPCStatusCode.NOT_FOUND:
                return "the workflow is unknown to Temporal"
            raise
        if execution.status in (None, WorkflowExecutionStatus.RUNNING):
            return None
        return f"the workflow is {execution.status.name.lower()}"

    async def _close_never_opened(self) -> int:
        """Does the same for orders whose workflow was ended before they reached the books."""
        now = datetime.now(UTC)
        since = now - FIRST_LOOK_BEHIND if self._searched_at is None else self._searched_at - LOOK_OVERLAP
        query = (
            "WorkflowType = 'OrderWorkflow' AND ExecutionStatus IN ('Terminated', 'TimedOut', 'Failed')"
            f" AND CloseTime >= '{since.isoformat()}'"
        )
        with temporal_errors():
            found = [execution async for execution in self._client.list_workflows(query)]
        unseen = [
            (execution.id.removeprefix(ORDER_WORKFLOW_PREFIX), execution)
            for execution in found
            if execution.run_id not in self._seen
        ]
        known = await audit_database.known_orders(self._database, [order_id for order_id, _ in unseen])
        started = 0
        unread = set()
        for order_id, execution in unseen:
            if order_id not in known:
                try:
                    request = await self._as_accepted(order_id, execution)
                except PayloadUnreadable as error:
                    # Looked at again and again, until somebody brings the key.
                    log.warning("order cannot be read", order_id=order_id, error=str(error))
                    unread.add(execution.run_id)
                    continue
                if request is not None:
                    started += await self._reconcile(request)
        # Not before: what a look does not get to the end of, the next one goes over again.
        if not unread:
            self._searched_at = now
        self._seen = {execution.run_id for execution in found} - unread
        return started

    async def _as_accepted(self, order_id: str, execution: WorkflowExecution) -> ReconcileRequest | None:
        """The order as its workflow was started; None when it never became an order, or goes on in a later
        run."""
        started = await started_order(self._client, execution)
        if started is None or await is_running(self._client, execution.id):
            return None
        order = started.order
        accepted_at = execution.start_time
        status = execution.status.name.lower() if execution.status else "closed"
        opened = OpenRequest(
            order=order,
            workflow_run_id=started.first_run_id,
            accepted_at=accepted_at,
            deadline_at=accepted_at + timedelta(seconds=order.limit_seconds),
        )
        return ReconcileRequest(order_id, f"the workflow is {status}", order.run_id, opened)

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
        log.warning("order lost its workflow, closing it", order_id=request.order_id, cause=request.cause)
        return True
