"""Task queues and their workers, as the Temporal server reports them."""

from datetime import UTC, datetime, timedelta

from temporalio.api.enums.v1 import TaskQueueType, WorkerStatus
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.worker.v1 import WorkerHeartbeat
from temporalio.api.workflowservice.v1 import (
    DescribeTaskQueueRequest,
    DescribeTaskQueueResponse,
    ListWorkersRequest,
)
from temporalio.client import Client
from temporalio.service import RPCError

RPC_TIMEOUT = timedelta(seconds=1)

FRESH = timedelta(seconds=12)
"""Maximum age of a heartbeat. A worker sends one every 5 s."""

POLL_FRESH = timedelta(seconds=75)
"""Maximum age of a long poll, which lasts a minute. Used where workers send no heartbeats."""


async def describe_task_queue(
    client: Client, name: str, *, activities: bool = False, timeout: timedelta = RPC_TIMEOUT
) -> DescribeTaskQueueResponse:
    """Return pollers and backlog of the workflow or activity tasks of a queue. Raises RPCError."""
    return await client.workflow_service.describe_task_queue(
        DescribeTaskQueueRequest(
            namespace=client.namespace,
            task_queue=TaskQueue(name=name),
            task_queue_type=TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY
            if activities
            else TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW,
            report_stats=True,
        ),
        retry=False,
        timeout=timeout,
    )


def poll_times(queue: DescribeTaskQueueResponse) -> dict[str, datetime]:
    """Return the last poll of each worker, by the worker's identity."""
    return {poller.identity: poller.last_access_time.ToDatetime(UTC) for poller in queue.pollers}


async def worker_heartbeats(client: Client) -> list[WorkerHeartbeat]:
    """Return the latest heartbeat of each recently seen worker, running or stopped.

    Returns [] if the server is unavailable or has no worker heartbeats.
    """
    since = datetime.now(UTC) - POLL_FRESH
    try:
        response = await client.workflow_service.list_workers(
            ListWorkersRequest(
                namespace=client.namespace,
                page_size=1_000,
                query=f"HeartbeatTime > '{since.isoformat(timespec='seconds')}'",
            ),
            retry=False,
            timeout=RPC_TIMEOUT,
        )
    except (RPCError, RuntimeError):
        return []
    return [worker.worker_heartbeat for worker in response.workers_info]


def is_served(queue: str, heartbeats: list[WorkerHeartbeat], polls: list[datetime]) -> bool:
    """Return whether a worker of the queue has a fresh heartbeat or a recent poll.

    A killed worker stays among the pollers of a queue for a minute, so a poll of that age counts only where
    no worker sends heartbeats.
    """
    own = [heartbeat for heartbeat in heartbeats if heartbeat.task_queue == queue]
    if any(is_fresh(heartbeat) for heartbeat in own):
        return True
    oldest = FRESH if own else POLL_FRESH
    return any(_age(poll) < oldest for poll in polls)


def is_fresh(heartbeat: WorkerHeartbeat) -> bool:
    """Return whether the heartbeat is from a worker that is running now."""
    is_running = heartbeat.status == WorkerStatus.WORKER_STATUS_RUNNING
    return is_running and _age(heartbeat.heartbeat_time.ToDatetime(UTC)) < FRESH


def _age(time: datetime) -> timedelta:
    return datetime.now(UTC) - time
