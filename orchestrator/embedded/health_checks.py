"""Whether a part really does its work: questions asked of the part itself, none of which ever raises."""

import asyncio
import http.client
import threading
from collections.abc import Coroutine
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from orchestrator.settings import Settings

if TYPE_CHECKING:
    from temporalio.client import Client

PATIENCE_SECONDS = 2
"""How long one question may take to be answered."""

T = TypeVar("T")


class Probes:
    """The questions. A context manager: it keeps a connection to Temporal while it is open.

    Synchronous on the outside, so that commands, tests and running event loops may all use it; the
    Temporal SDK's loop runs in a thread of its own.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._client: Client | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._loop is None or self._thread is None:
            return
        self._client = None
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._loop = None

    def postgres_answers(self) -> bool:
        """Whether the server carries out a query. The database of the books may not exist yet."""
        import psycopg
        from psycopg.conninfo import make_conninfo

        where = {} if not self._settings.uses_embedded_postgres else {"dbname": "postgres"}
        conninfo = make_conninfo(self._settings.order_database_url, connect_timeout=PATIENCE_SECONDS, **where)
        try:
            with psycopg.connect(conninfo, autocommit=True) as connection:
                return connection.execute("select 1").fetchone() == (1,)
        except psycopg.Error:
            return False

    def temporal_timeout(self) -> bool:
        """Whether the frontend is healthy and knows the namespace."""
        return self._asked_of_temporal(self._namespace_known(), otherwise=False)

    def worker_polls(self, task_queue: str, identity: str, since: datetime) -> bool:
        """Whether a worker of this identity has asked for work since then.

        A predecessor of the same name stays in the server's list for minutes, hence the time.
        """
        polled_at = self._asked_of_temporal(self._last_polls(task_queue), otherwise={}).get(identity)
        return polled_at is not None and polled_at >= since - self._clock_difference

    def http_answers(self, port: int, path: str) -> bool:
        """Whether GET answers 200, of a part that listens on BIND_ADDRESS."""
        address = self._settings.local_address
        connection = http.client.HTTPConnection(address, port, timeout=PATIENCE_SECONDS)
        try:
            connection.request("GET", path)
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    @property
    def _clock_difference(self) -> timedelta:
        # An external server has a clock of its own.
        return timedelta(seconds=0 if self._settings.uses_embedded_temporal else 60)

    async def _connected(self) -> "Client":
        # Imported late: 0.5 s, better spent while the servers start.
        from orchestrator.temporal_client import connect

        if self._client is None:
            self._client = await connect(self._settings, identity="stack")
        return self._client

    async def _namespace_known(self) -> bool:
        # A task queue is only found once the server's own registry knows the namespace; describing the
        # namespace itself succeeds a moment earlier.
        await self._last_polls(self._settings.order_task_queue)
        return True

    async def _last_polls(self, task_queue: str) -> dict[str, datetime]:
        from temporalio.api.enums.v1 import TaskQueueType
        from temporalio.api.taskqueue.v1 import TaskQueue
        from temporalio.api.workflowservice.v1 import DescribeTaskQueueRequest

        client = await self._connected()
        answer = await client.workflow_service.describe_task_queue(
            DescribeTaskQueueRequest(
                namespace=client.namespace,
                task_queue=TaskQueue(name=task_queue),
                task_queue_type=TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW,
            ),
            timeout=timedelta(seconds=PATIENCE_SECONDS),
        )
        return {poller.identity: poller.last_access_time.ToDatetime(UTC) for poller in answer.pollers}

    def _asked_of_temporal(self, question: Coroutine[Any, Any, T], otherwise: T) -> T:
        """The answer, or `otherwise` when there is none."""
        from temporalio.service import RPCError

        from orchestrator.errors import TemporalUnavailable

        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(target=self._loop.run_forever, name="stack-probes", daemon=True)
            self._thread.start()
        bounded = asyncio.wait_for(question, PATIENCE_SECONDS)
        try:
            return asyncio.run_coroutine_threadsafe(bounded, self._loop).result()
        except (TemporalUnavailable, RPCError, TimeoutError):
            return otherwise
