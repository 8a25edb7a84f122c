"""Timeouts of calls to PostgreSQL and Temporal.

A client receives its 503 within 2 s when a service does not respond. So no call waits longer, unless the
service still responds to a check every second.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from datetime import timedelta
from typing import Any, TypeVar

from temporalio.api.workflowservice.v1 import GetSystemInfoRequest
from temporalio.client import Client

from db.database import Database
from orchestrator.errors import DatabaseUnavailable, TemporalUnavailable
from orchestrator.temporal_client import temporal_errors

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
    work: Coroutine[Any, Any, T], *checks: Callable[[], Awaitable[None]], seconds: float | None = None
) -> T:
    """Return the result of long work, during which the checks run every second.

    Raises the error of a failed check, or TimeoutError after `seconds`.
    """
    task = asyncio.ensure_future(work)
    try:
        async with asyncio.timeout(seconds):
            while True:
                await asyncio.wait({task}, timeout=CHECK_INTERVAL_SECONDS)
                if task.done():
                    return task.result()
                await asyncio.gather(*(check() for check in checks))
    finally:
        _cancel(task)


def database_check(database: Database) -> Callable[[], Awaitable[None]]:
    """Return a check that raises DatabaseUnavailable when PostgreSQL does not respond."""

    async def check() -> None:
        await with_timeout(database.ping(), CHECK_SECONDS)

    return check


def temporal_check(client: Client) -> Callable[[], Awaitable[None]]:
    """Return a check that raises TemporalUnavailable when Temporal does not respond."""

    async def check() -> None:
        timeout = timedelta(seconds=CHECK_SECONDS)
        try:
            with temporal_errors():
                async with asyncio.timeout(CHECK_SECONDS):
                    await client.workflow_service.get_system_info(
                        GetSystemInfoRequest(), retry=False, timeout=timeout
                    )
        except TimeoutError as error:
            raise TemporalUnavailable from error

    return check


def _cancel(task: asyncio.Future[Any]) -> None:
    """Cancel without waiting: the driver sends a cancel request first, to a server that may not respond."""
    task.add_done_callback(lambda done: done.cancelled() or done.exception())
    task.cancel()
