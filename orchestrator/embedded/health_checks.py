"""Health checks of components. Each sends a real request with a short timeout; none raises."""

import asyncio
import http.client
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Self, TypeVar

from orchestrator.settings import Settings

if TYPE_CHECKING:
    from temporalio.client import Client

TIMEOUT_SECONDS = 2
EXTERNAL_CLOCK_TOLERANCE = timedelta(seconds=60)

T = TypeVar("T")


class HealthChecks:
    """A context manager that keeps its connection to Temporal open.

    Synchronous, so that commands, tests and callers with an event loop can use it; the Temporal SDK runs
    in a separate thread.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._thread: ThreadPoolExecutor | None = None
        self._runner = asyncio.Runner()
        self._client: Client | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread is None:
            return
        self._client = None
        # After the last call has ended, also if Ctrl-C has interrupted the caller: the SDK prints a traceback
        # if a call ends after its event loop is closed.
        self._thread.submit(self._runner.close)
        self._thread.shutdown()
        self._thread = None

    def postgres_responds(self) -> bool:
        """Return whether the server executes a query. The order database may not exist yet."""
        import psycopg
        from psycopg.conninfo import make_conninfo

        database = {"dbname": "postgres"} if self._settings.uses_embedded_postgres else {}
        conninfo = make_conninfo(
            self._settings.order_database_url, connect_timeout=TIMEOUT_SECONDS, **database
        )
        try:
            with psycopg.connect(conninfo, autocommit=True) as connection:
                return connection.execute("select 1").fetchone() == (1,)
        except psycopg.Error:
            return False

    def temporal_responds(self) -> bool:
        """Return whether task queues of the namespace can be described.

        The namespace itself can be described a moment before that.
        """
        return self._run(self._last_polls(self._settings.order_task_queue)) is not None

    def worker_polls(self, task_queue: str, identity: str, since: datetime) -> bool:
        """Return whether a worker of this identity has polled since then.

        The server lists a stopped worker of the same identity for minutes.
        """
        polled_at = (self._run(self._last_polls(task_queue)) or {}).get(identity)
        tolerance = timedelta(0) if self._settings.uses_embedded_temporal else EXTERNAL_CLOCK_TOLERANCE
        return polled_at is not None and polled_at >= since - tolerance

    def http_responds(self, port: int, path: str) -> bool:
        """Return whether a component that listens on BIND_ADDRESS returns 200 for GET."""
        connection = http.client.HTTPConnection(self._settings.local_address, port, timeout=TIMEOUT_SECONDS)
        try:
            connection.request("GET", path)
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    async def _last_polls(self, task_queue: str) -> dict[str, datetime]:
        # Imported while the servers start: the SDK takes 0.5 s to load.
        from orchestrator.temporal.client import connect
        from orchestrator.temporal.task_queues import describe_task_queue, poll_times

        if self._client is None:
            self._client = await connect(self._settings, identity="stack")
        timeout = timedelta(seconds=TIMEOUT_SECONDS)
        return poll_times(await describe_task_queue(self._client, task_queue, timeout=timeout))

    def _run(self, call: Coroutine[Any, Any, T]) -> T | None:
        """Return the result of the call; None if Temporal is unavailable."""
        from temporalio.service import RPCError

        from orchestrator.errors import TemporalUnavailable

        if self._thread is None:
            self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="health-checks")
        try:
            bounded = asyncio.wait_for(call, TIMEOUT_SECONDS)
            return self._thread.submit(self._runner.run, bounded).result()
        except (TemporalUnavailable, RPCError, TimeoutError):
            return None
