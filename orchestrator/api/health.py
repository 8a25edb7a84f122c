"""Health checks of PostgreSQL, Temporal and the workers."""

import asyncio
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from time import monotonic

from temporalio.api.enums.v1 import TaskQueueType, WorkerStatus
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.worker.v1 import WorkerHeartbeat
from temporalio.api.workflowservice.v1 import (
    DescribeNamespaceRequest,
    DescribeTaskQueueRequest,
    ListWorkersRequest,
)
from temporalio.client import Client
from temporalio.service import RPCError

from db.database import Database
from orchestrator.api.timeouts import with_timeout
from orchestrator.errors import ServiceUnavailable
from orchestrator.settings import Settings

CHECK_TIMEOUT = timedelta(seconds=1)
CACHE_SECONDS = 1.0

FRESH = timedelta(seconds=12)
"""Maximum age of a heartbeat. A worker sends one every 5 s."""

POLL_FRESH = timedelta(seconds=75)
"""Maximum age of a long poll, which lasts a minute. Used where workers send no heartbeats."""


@dataclass(frozen=True)
class HealthReport:
    at: datetime
    temporal_connected: bool
    database_connected: bool
    queues_served: Mapping[str, bool]
    """Whether a task queue has an active worker, by task queue."""

    @property
    def workers_healthy(self) -> bool:
        return all(self.queues_served.values())

    @property
    def is_healthy(self) -> bool:
        return self.temporal_connected and self.database_connected and self.workers_healthy


class Health:
    """Runs all checks concurrently, and caches the report for a second."""

    def __init__(self, settings: Settings, database: Database, client: Client) -> None:
        self._database = database
        self._client = client
        self._queues = (settings.order_task_queue, settings.shipping_task_queue)
        self._checking = asyncio.Lock()
        self._last: HealthReport | None = None
        self._last_at = 0.0

    async def report(self) -> HealthReport:
        """Return a report that is at most a second old. Never raises."""
        async with self._checking:
            if self._last is None or monotonic() - self._last_at > CACHE_SECONDS:
                self._last = await self._check()
                self._last_at = monotonic()
            return self._last

    async def _check(self) -> HealthReport:
        database, temporal, served = await asyncio.gather(
            _succeeds(with_timeout(self._database.ping())),
            _succeeds(self._describe_namespace()),
            self._queues_served(),
        )
        queues_served = {queue: temporal and is_live for queue, is_live in served.items()}
        return HealthReport(datetime.now(UTC), temporal, database, queues_served)

    async def _describe_namespace(self) -> None:
        await self._client.workflow_service.describe_namespace(
            DescribeNamespaceRequest(namespace=self._client.namespace), retry=False, timeout=CHECK_TIMEOUT
        )

    async def _queues_served(self) -> dict[str, bool]:
        heartbeats, polls = await asyncio.gather(
            self._heartbeats(), asyncio.gather(*(self._polls(queue) for queue in self._queues))
        )
        return {
            queue: is_served([heartbeat for heartbeat in heartbeats if heartbeat.task_queue == queue], polled)
            for queue, polled in zip(self._queues, polls, strict=True)
        }

    async def _heartbeats(self) -> list[WorkerHeartbeat]:
        """Return the latest heartbeat of each recently seen worker, running or stopped."""
        since = datetime.now(UTC) - POLL_FRESH
        try:
            response = await self._client.workflow_service.list_workers(
                ListWorkersRequest(
                    namespace=self._client.namespace,
                    page_size=1_000,
                    query=f"HeartbeatTime > '{since.isoformat(timespec='seconds')}'",
                ),
                retry=False,
                timeout=CHECK_TIMEOUT,
            )
        except (RPCError, RuntimeError):
            # Unavailable, which the namespace check reports, or a server without worker heartbeats.
            return []
        return [worker.worker_heartbeat for worker in response.workers_info]

    async def _polls(self, queue: str) -> list[datetime]:
        try:
            response = await self._client.workflow_service.describe_task_queue(
                DescribeTaskQueueRequest(
                    namespace=self._client.namespace,
                    task_queue=TaskQueue(name=queue),
                    task_queue_type=TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW,
                ),
                retry=False,
                timeout=CHECK_TIMEOUT,
            )
        except (RPCError, RuntimeError):
            return []
        return [poller.last_access_time.ToDatetime(UTC) for poller in response.pollers]


def is_served(heartbeats: list[WorkerHeartbeat], polled: list[datetime]) -> bool:
    """Return whether a worker of the queue has a fresh heartbeat or a recent poll.

    A killed worker stays among the pollers of a queue for a minute, so a poll of that age counts only where no
    worker sends heartbeats.
    """
    if any(is_fresh(heartbeat) for heartbeat in heartbeats):
        return True
    oldest = FRESH if heartbeats else POLL_FRESH
    return any(_age(polled_at) < oldest for polled_at in polled)


def is_fresh(heartbeat: WorkerHeartbeat) -> bool:
    """Return whether the heartbeat is from a worker that is running now."""
    is_running = heartbeat.status == WorkerStatus.WORKER_STATUS_RUNNING
    return is_running and _age(heartbeat.heartbeat_time.ToDatetime(UTC)) < FRESH


async def _succeeds(check: Awaitable[object]) -> bool:
    try:
        await check
    except (ServiceUnavailable, RPCError, RuntimeError):
        return False
    return True


def _age(time: datetime) -> timedelta:
    return datetime.now(UTC) - time
