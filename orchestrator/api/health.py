"""Health checks of PostgreSQL, Temporal and the workers."""

import asyncio
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from time import monotonic

from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest
from temporalio.client import Client
from temporalio.service import RPCError

from db.database import Database
from orchestrator.api.timeouts import with_timeout
from orchestrator.errors import ServiceUnavailable
from orchestrator.settings import Settings
from orchestrator.temporal.task_queues import (
    RPC_TIMEOUT,
    describe_task_queue,
    is_served,
    poll_times,
    worker_heartbeats,
)

CACHE_SECONDS = 1.0


@dataclass(frozen=True)
class HealthReport:
    timestamp: datetime
    temporal_connected: bool
    database_connected: bool
    queues_served: Mapping[str, bool]
    """Whether a task queue has an active worker, by task queue."""

    @property
    def workers_healthy(self) -> bool:
        return all(self.queues_served.values())

    @property
    def status(self) -> str:
        is_healthy = self.temporal_connected and self.database_connected and self.workers_healthy
        return "healthy" if is_healthy else "unhealthy"


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
            DescribeNamespaceRequest(namespace=self._client.namespace), retry=False, timeout=RPC_TIMEOUT
        )

    async def _queues_served(self) -> dict[str, bool]:
        heartbeats, polls = await asyncio.gather(
            worker_heartbeats(self._client), asyncio.gather(*(self._polls(queue) for queue in self._queues))
        )
        return {
            queue: is_served(queue, heartbeats, times)
            for queue, times in zip(self._queues, polls, strict=True)
        }

    async def _polls(self, queue: str) -> list[datetime]:
        try:
            return list(poll_times(await describe_task_queue(self._client, queue)).values())
        except (RPCError, RuntimeError):
            return []


async def _succeeds(check: Awaitable[object]) -> bool:
    try:
        await check
    except (ServiceUnavailable, RPCError, RuntimeError):
        return False
    return True
