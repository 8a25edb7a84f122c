"""Closes orphaned orders: starts a ReconcileWorkflow for each open order whose workflow is closed.

It is a loop in every order worker, not a scheduled workflow: a pass without an orphan costs two short
queries, while a schedule would write a workflow history each time. One worker at a time is the leader.

A wrong decision refunds and fails a healthy order. So an order is closed only if its workflow and its row are
checked again CONFIRMATION_SECONDS later. With more than `max_orphans` orphans within ORPHAN_WINDOW_SECONDS,
the more likely cause is one fault for all of them, for example a Temporal server that lost its data. Then the
reconciler stops until a person lets it continue (`orders reconciler resume`).
"""

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from time import monotonic

import structlog
from temporalio.client import Client
from temporalio.common import WorkflowIDConflictPolicy, WorkflowIDReusePolicy
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError

from db.database import Database
from db.domain import TemporalNamespace
from db.maintenance.reconciliation import Lease, Reconciliation
from orchestrator.errors import ServiceUnavailable, TemporalReplaced
from orchestrator.messages.ids import reconcile_workflow_id
from orchestrator.messages.orders import ReconcileRequest
from orchestrator.temporal.client import temporal_errors, temporal_namespace
from orchestrator.worker.metrics import WorkerMetrics
from orchestrator.worker.orphan_search import OrderFailed, Orphan, OrphanSearch
from orchestrator.workflows.step_execution import WORKFLOW_TASK_TIMEOUT

INTERVAL_SECONDS = 1.0
LEASE = timedelta(seconds=4)
"""How long a worker stays the leader without a pass: another one replaces a killed leader within 5 s."""

SEARCH_INTERVAL_SECONDS = 5.0
"""How often to search Temporal for workflows that closed before their order was inserted. Temporal scans all
recently closed workflows for it (docs/decisions/0011)."""

CONFIRMATION_SECONDS = 2.0
"""Time between the two checks (docs/decisions/0005 has the measurement)."""

ORPHAN_WINDOW_SECONDS = 60.0

log = structlog.get_logger()


@dataclass
class Candidate:
    """An orphan that was seen once. Times are of the monotonic clock."""

    orphan: Orphan
    next_check_at: float


class Reconciler:
    def __init__(
        self,
        database: Database,
        client: Client,
        temporal: TemporalNamespace,
        *,
        leader: str,
        task_queue: str,
        database_id: str,
        max_orphans: int,
        metrics: WorkerMetrics | None = None,
    ) -> None:
        """`leader` identifies this process."""
        self._client = client
        self._temporal = temporal
        self._task_queue = task_queue
        self._max_orphans = max_orphans
        self._metrics = metrics or WorkerMetrics()
        self._reconciliation = Reconciliation(database, temporal, leader)
        self._search = OrphanSearch(
            database,
            self._reconciliation,
            client,
            task_queue=task_queue,
            database_id=database_id,
            on_failure=self._metrics.reconciler_failed_order,
        )
        self._candidates: dict[str, Candidate] = {}
        self._found_at: dict[str, float] = {}
        """When each orphan of the last ORPHAN_WINDOW_SECONDS was found."""

        self._was_stopped = False

    async def run(self) -> None:
        """Run a pass every second until cancelled, also after a failed pass."""
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
            await asyncio.sleep(INTERVAL_SECONDS)

    async def run_once(self, *, search: bool = True) -> int:
        """Search orphaned orders, and start a ReconcileWorkflow for each confirmed one of the earlier passes.

        Return how many were started: 0 if another worker is the leader or the reconciler is stopped. With
        `search`, also search orders that were never inserted, which costs Temporal more.
        """
        lease = await self._reconciliation.take_lease(LEASE)
        if lease is None or self._is_stopped(lease):
            return 0
        orphans = await self._search.stale_orders()
        if search:
            orphans += await self._search.never_inserted()
        for orphan in orphans:
            self._add_candidate(orphan, lease)
        if len(self._found_at) > self._max_orphans:
            await self._reconciliation.stop(list(self._found_at))
            self._found_at.clear()
            return 0
        return await self._close_confirmed()

    def _is_stopped(self, lease: Lease) -> bool:
        if lease.stopped_at is not None and not self._was_stopped:
            log.error(
                "reconciler is stopped: too many orders look orphaned; read docs/how-to/respond-to-alerts.md",
                orphans=lease.orphans,
                max_orphans=self._max_orphans,
                examples=lease.orphan_examples,
            )
        self._was_stopped = lease.stopped_at is not None
        return self._was_stopped

    def _add_candidate(self, orphan: Orphan, lease: Lease) -> None:
        now = monotonic()
        candidate = self._candidates.get(orphan.order_id)
        if candidate is None or candidate.orphan.last_event_at != orphan.last_event_at:
            self._candidates[orphan.order_id] = Candidate(orphan, now + CONFIRMATION_SECONDS)
        oldest = now - ORPHAN_WINDOW_SECONDS
        self._found_at = {id_: at for id_, at in self._found_at.items() if at > oldest}
        if lease.confirmed_before is None or orphan.silent_since > lease.confirmed_before:
            self._found_at.setdefault(orphan.order_id, now)

    async def _close_confirmed(self) -> int:
        """Check each candidate that is due again, and close the orders that are still orphaned."""
        due = [candidate for candidate in self._candidates.values() if candidate.next_check_at <= monotonic()]
        if not due:
            return 0
        # Another server may respond at the address since the first check, without any of the orders.
        if await temporal_namespace(self._client) != self._temporal:
            raise TemporalReplaced
        closed = 0
        for candidate in due:
            candidate.next_check_at = monotonic() + CONFIRMATION_SECONDS
            with suppress(OrderFailed):
                closed += await self._close_if_confirmed(candidate.orphan)
        return closed

    async def _close_if_confirmed(self, orphan: Orphan) -> bool:
        if await self._reconciliation.take_lease(LEASE) is None:
            return False
        is_confirmed: bool | None = await self._search.is_still_orphaned(orphan)
        if is_confirmed:
            is_confirmed = await self._reconciliation.confirm_orphan(orphan.order_id, orphan.last_event_at)
        if is_confirmed is None:
            return False
        is_closed = is_confirmed and await self._search.isolated(orphan.order_id, self._close(orphan.request))
        del self._candidates[orphan.order_id]
        return is_closed

    async def _close(self, request: ReconcileRequest) -> bool:
        """Start the workflow that closes the order; return False if it was started before."""
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
