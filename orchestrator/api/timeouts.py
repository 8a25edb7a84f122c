"""Timeouts of calls to PostgreSQL and Temporal.

A client receives its 503 within 2 s when a service does not respond. So no call waits longer, unless the
service still responds to a check every second.
"""

import asyncio
from collections.abc import Coroutine
from datetime import timedelta
from typing import Any, TypeVar

from temporalio.api.workflowservice.v1 import GetSystemInfoRequest
from temporalio.client import Client

from db.database import Database
from orchestrator.errors import DatabaseUnavailable, TemporalUnavailable
from orchestrator.temporal.client import temporal_errors

T = TypeVar("T")

QUERY_SECONDS = 1.2
CHECK_INTERVAL_SECONDS = 1.0
CHECK_SECONDS = 0.7


async def with_timeout(query: Coroutine[Any, Any, T], seconds: float = QUERY_SECONDS) -> T:
    """Return the result of a short query. Raises DatabaseUnavailable after `seconds`."""
    task = asyncio.ensure_future(query)
    try:
        await asyncio.wait({task}, timeout=seconds)
        if task.done():
            return task.result()
    finally:
        _cancel(task)
    raise DatabaseUnavailable


async def while_available(
    work: Coroutine[Any, Any, T],
    database: Database,
    client: Client | None = None,
    *,
    seconds: float | None = None,
) -> T:
    """Return the result of long work, during which PostgreSQL and, with `client`, Temporal are checked every
    second.

    Raises DatabaseError, TemporalUnavailable, or TimeoutError after `seconds`.
    """
    task = asyncio.ensure_future(work)
    try:
        async with asyncio.timeout(seconds):
            while True:
                await asyncio.wait({task}, timeout=CHECK_INTERVAL_SECONDS)
                if task.done():
                    return task.result()
                checks = [with_timeout(database.ping(), CHECK_SECONDS)]
                if client is not None:
                    checks.append(_ping_temporal(client))
                await asyncio.gather(*checks)
    finally:
        _cancel(task)


async def _ping_temporal(client: Client) -> None:
    timeout = timedelta(seconds=CHECK_SECONDS)
    try:
        with temporal_errors():
            async with asyncio.timeout(CHECK_SECONDS):
                await client.workflow_service.get_system_info(
                    GetSystemInfoRequest(), retry=False, timeout=timeout
                )
    except TimeoutError as error:
        raise TemporalUnavailable from error


def _cancel(task: asyncio.Future[Any]) -> None:
    """Cancel without waiting: the driver sends a cancel request first, to a server that may not respond."""
    task.add_done_callback(lambda done: done.cancelled() or done.exception())
    task.cancel()
