"""Claims of task queues: each task queue serves one order database.

Without them, workers of two order databases that poll one task queue would insert the orders of one system
into the database of the other. A claim is a workflow that never starts. Workflow ids are unique in a
namespace, so two databases cannot claim a task queue at the same time. The id of the order database is in the
name of the claim's own task queue: payload encryption would hide a memo.
"""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from temporalio.client import Client, WorkflowExecution
from temporalio.common import WorkflowIDConflictPolicy
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from db.database import Database
from db.maintenance.reconciliation import database_id
from orchestrator.errors import TemporalUnavailable
from orchestrator.messages.ids import compensation_task_queue
from orchestrator.settings import Settings
from orchestrator.startup.findings import Finding, refuse
from orchestrator.temporal import task_queues
from orchestrator.temporal.client import temporal_errors

_WORKFLOW = "TaskQueueClaim"
CLAIM_QUEUE_PREFIX = "order-database-"
_NEVER = timedelta(days=36_500)
"""Delays the claim's first task, which no worker would process."""

_STARTING = timedelta(seconds=15)
"""A younger claim counts as in use, because its system may have no worker yet."""

_ATTEMPTS = 3
"""Attempts at a claim that another process makes at the same time."""


def task_queues_of(settings: Settings) -> tuple[str, ...]:
    order_queue = settings.order_task_queue
    return order_queue, compensation_task_queue(order_queue), settings.shipping_task_queue


async def check_task_queues(settings: Settings, client: Client) -> list[Finding]:
    """Return a finding for each task queue that serves another order database. Claims nothing.

    Raises DatabaseError and TemporalUnavailable.
    """
    async with Database(settings.order_database_url, max_size=1, application_name="startup") as database:
        own_id = await database_id(database)
    findings = []
    with temporal_errors():
        for queue in task_queues_of(settings):
            claim = await _find_claim(client, queue)
            if claim is not None and _owner(claim) != own_id and await _is_in_use(client, queue, claim):
                findings.append(_taken(client, queue, claim, own_id))
    return findings


async def claim_task_queues(client: Client, database: Database, queues: Iterable[str]) -> str:
    """Claim the task queues for the order database, and return the id of that database.

    Raises StartRefused if a queue serves another order database, DatabaseError and TemporalUnavailable.
    """
    own_id = await database_id(database)
    with temporal_errors():
        for queue in queues:
            await _claim(client, queue, own_id)
    return own_id


async def _claim(client: Client, queue: str, own_id: str) -> None:
    for _ in range(_ATTEMPTS):
        claim = await _find_claim(client, queue)
        if claim is not None:
            if _owner(claim) == own_id:
                return
            if await _is_in_use(client, queue, claim):
                refuse([_taken(client, queue, claim, own_id)])
            await _end_claim(client, claim)
        try:
            await client.start_workflow(
                _WORKFLOW,
                id=claim_id(queue),
                task_queue=CLAIM_QUEUE_PREFIX + own_id,
                start_delay=_NEVER,
                id_conflict_policy=WorkflowIDConflictPolicy.FAIL,
                static_summary=f"Task queue {queue} serves order database {own_id}",
            )
        except WorkflowAlreadyStartedError:
            # Another process has claimed the queue since the check.
            continue
        return
    raise TemporalUnavailable(f"Task queue {queue} could not be claimed. Try again shortly.")


def claim_id(queue: str) -> str:
    return f"claim-of-{queue}"


def _owner(claim: WorkflowExecution) -> str:
    return claim.task_queue.removeprefix(CLAIM_QUEUE_PREFIX)


async def _find_claim(client: Client, queue: str) -> WorkflowExecution | None:
    try:
        claim = await client.get_workflow_handle(claim_id(queue)).describe()
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            return None
        raise
    return claim if claim.close_time is None else None


async def _is_in_use(client: Client, queue: str, claim: WorkflowExecution) -> bool:
    """Return whether the claim is new, a workflow of the task queue is open, or a worker polls it."""
    if datetime.now(UTC) - claim.start_time < _STARTING:
        return True
    query = f"TaskQueue = '{queue}' AND ExecutionStatus = 'Running'"
    if (await client.count_workflows(query)).count:
        return True
    heartbeats = await task_queues.worker_heartbeats(client)
    polls = task_queues.poll_times(await task_queues.describe_task_queue(client, queue))
    return task_queues.is_served(queue, heartbeats, list(polls.values()))


def _taken(client: Client, queue: str, claim: WorkflowExecution, own_id: str) -> Finding:
    return Finding(
        "task-queue-taken",
        f"Task queue {queue} in the Temporal namespace {client.namespace} serves another order database "
        f"({_owner(claim)}; this one is {own_id}).",
        "Set TEMPORAL_NAMESPACE to a namespace that only this system uses, or correct DATABASE_URL.",
    )


async def _end_claim(client: Client, claim: WorkflowExecution) -> None:
    handle = client.get_workflow_handle(claim.id, run_id=claim.run_id)
    try:
        await handle.terminate("another order database claims the task queue")
    except RPCError as error:
        if error.status is not RPCStatusCode.NOT_FOUND:
            raise
