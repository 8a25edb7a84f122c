"""Finds orphaned orders: those without an outcome whose workflow does not run any more."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import TypeVar

import structlog
from temporalio.client import Client, WorkflowExecution, WorkflowExecutionStatus

from db.database import Database
from db.maintenance.audit import known_orders
from db.maintenance.reconciliation import Reconciliation, StaleOrder
from orchestrator.errors import ServiceUnavailable
from orchestrator.messages.ids import order_id_of, order_workflow_id, reconcile_workflow_id
from orchestrator.messages.orders import ReconcileRequest
from orchestrator.temporal.client import temporal_errors, temporal_namespace
from orchestrator.temporal.workflow_lookup import is_running, latest_status, started_order

FIRST_SEARCH_WINDOW = timedelta(hours=24)
"""Time range of a worker's first search, which finds workflows that closed while no worker ran: Temporal's
default retention of closed workflows."""

SEARCH_OVERLAP = timedelta(minutes=5)
"""Overlap of each search with the previous one: Temporal lists a closed workflow with a delay, and its clock
can differ from ours."""

PAGE_SIZE = 100
"""Stale orders per pass; the next pass continues with the next page."""

STALE_AFTER = timedelta(seconds=2)
"""Time without an event after which an open order is checked."""

ORDER_SECONDS = 2.0
"""Maximum time for one order, so that a huge history does not delay the other orders."""

SKIP_SECONDS = 30.0
"""Time for which a stale order is skipped after its check has failed."""

T = TypeVar("T")

log = structlog.get_logger()


@dataclass(frozen=True)
class Orphan:
    """An orphaned order, and how to close it. `last_event_at` is None if it was never inserted.
    `silent_since` is the time of its last event, or when its workflow closed."""

    request: ReconcileRequest
    last_event_at: datetime | None
    silent_since: datetime

    @property
    def order_id(self) -> str:
        return self.request.order_id


class OrderFailed(Exception):
    """The workflow of one order could not be looked up or reconciled. The cause is in the log."""


class OrphanSearch:
    """Looks up each order separately: after one that fails it calls `on_failure` and continues.

    Raises ServiceUnavailable if the database or the Temporal server is unavailable.
    """

    def __init__(
        self,
        database: Database,
        reconciliation: Reconciliation,
        client: Client,
        *,
        task_queue: str,
        database_id: str,
        on_failure: Callable[[], None],
    ) -> None:
        self._database = database
        self._reconciliation = reconciliation
        self._client = client
        self._task_queue = task_queue
        self._database_id = database_id
        self._on_failure = on_failure
        self._page_end: StaleOrder | None = None
        self._searched_at: datetime | None = None
        self._seen_run_ids: set[str] = set()
        self._skipped_until: dict[str, float] = {}

    async def stale_orders(self) -> list[Orphan]:
        """Return the orphans on the next page of stale orders; the first page follows the last one.

        Orders in a manual review are stale too, so an orphan can be on any page.
        """
        page = await self._reconciliation.stale_orders(STALE_AFTER, after=self._page_end, limit=PAGE_SIZE)
        self._page_end = page[-1] if len(page) == PAGE_SIZE else None
        now = monotonic()
        self._skipped_until = {id_: until for id_, until in self._skipped_until.items() if until > now}
        orphans = []
        for order in page:
            if order.order_id in self._skipped_until:
                continue
            with suppress(OrderFailed):
                cause = await self.isolated(order.order_id, self._closing_cause(order.order_id))
                if cause is not None:
                    request = ReconcileRequest(order.order_id, cause, order.run_id)
                    orphans.append(Orphan(request, order.last_event_at, order.last_event_at))
        return orphans

    async def never_inserted(self) -> list[Orphan]:
        """Return the orders whose workflow closed before they were inserted, each once."""
        now = datetime.now(UTC)
        since = now - FIRST_SEARCH_WINDOW if self._searched_at is None else self._searched_at - SEARCH_OVERLAP
        query = (
            f"WorkflowType = 'OrderWorkflow' AND TaskQueue = '{self._task_queue}'"
            " AND ExecutionStatus IN ('Terminated', 'TimedOut', 'Failed')"
            f" AND CloseTime >= '{since.isoformat()}'"
        )
        with temporal_errors():
            found = [execution async for execution in self._client.list_workflows(query)]
        unseen = [execution for execution in found if execution.run_id not in self._seen_run_ids]
        known = await known_orders(self._database, [order_id_of(execution.id) for execution in unseen])
        orphans = []
        unreadable = set()
        for execution in unseen:
            if order_id_of(execution.id) in known:
                continue
            try:
                orphan = await self.isolated(order_id_of(execution.id), self._never_inserted(execution))
            except OrderFailed:
                # Retried at every search, for example until the payload key is configured.
                unreadable.add(execution.run_id)
                continue
            if orphan is not None:
                orphans.append(orphan)
        # Only after a complete search. Otherwise the next search covers this period again.
        if not unreadable:
            self._searched_at = now
        self._seen_run_ids = {execution.run_id for execution in found} - unreadable
        return orphans

    async def is_still_orphaned(self, orphan: Orphan) -> bool:
        """Look the order's workflow up again. Raises OrderFailed."""
        return await self.isolated(orphan.order_id, self._closing_cause(orphan.order_id)) is not None

    async def isolated(self, order_id: str, work: Awaitable[T]) -> T:
        """Return the result of work on one order.

        Raises OrderFailed if it fails, so that the caller continues with the other orders, and
        ServiceUnavailable if the Temporal server is unavailable.
        """
        try:
            async with asyncio.timeout(ORDER_SECONDS):
                return await work
        except Exception as error:
            if isinstance(error, ServiceUnavailable | TimeoutError):
                await temporal_namespace(self._client)
            log.warning("order cannot be reconciled", order_id=order_id, error=repr(error))
            self._on_failure()
            self._skipped_until[order_id] = monotonic() + SKIP_SECONDS
            raise OrderFailed from error

    async def _closing_cause(self, order_id: str) -> str | None:
        """Return how the order's workflow closed, or None while it or a ReconcileWorkflow runs."""
        status = await latest_status(self._client, order_workflow_id(order_id))
        is_handled = status is WorkflowExecutionStatus.RUNNING
        if is_handled or await is_running(self._client, reconcile_workflow_id(order_id)):
            return None
        return f"the workflow is {status.name.lower() if status else 'unknown to Temporal'}"

    async def _never_inserted(self, execution: WorkflowExecution) -> Orphan | None:
        """Return the orphan with a request that inserts it.

        None if the workflow was not an order, was an order for another order database, or has a later run.
        """
        started = await started_order(self._client, execution)
        if started is None or await is_running(self._client, execution.id):
            return None
        order = started.order
        if order.database_id not in (None, self._database_id):
            return None
        status = execution.status.name.lower() if execution.status else "closed"
        new_order = order.new_order(started.first_run_id, execution.start_time)
        request = ReconcileRequest(order.order_id, f"the workflow is {status}", order.run_id, new_order)
        return Orphan(request, None, execution.close_time or execution.start_time)
