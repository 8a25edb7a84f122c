"""How long a caller waits for PostgreSQL and Temporal.

A server that is gone says so at once; one that hangs says nothing. Either way a caller gets its 503 in
under 2 s, so no wait here is longer, unless the server goes on answering something else meanwhile.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from datetime import timedelta
from typing import Any, TypeVar

from temporalio.api.workflowservice.v1 import GetSystemInfoRequest
from temporalio.client import Client

from db.database import Database
from db.read_models import order_details
from orchestrator.errors import DatabaseUnavailable, TemporalUnavailable
from orchestrator.temporal_client import temporal_errors

T = TypeVar("T")

READING_SECONDS = 1.2
CHECK_INTERVAL_SECONDS = 1.0
CHECK_SECONDS = 0.7


async def within(reading: Coroutine[Any, Any, T], seconds: float = READING_SECONDS) -> T:
    """The result of a quick reading. Raises DatabaseUnavailable when it takes longer than `seconds`."""
    task = asyncio.ensure_future(reading)
    try:
        await asyncio.wait({task}, timeout=seconds)
        if task.done():
            return task.result()
    finally:
        _abandon(task)
    raise DatabaseUnavailable


async def while_alive(
    work: Coroutine[Any, Any, T], *checks: Callable[[], Awaitable[None]], seconds: float | None = None
) -> T:
    """The result of work that may well take long, as long as the checks pass, one round a second.

    Raises what a check raises, or TimeoutError after `seconds`.
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
        _abandon(task)


def database_timeout(database: Database) -> Callable[[], Awaitable[None]]:
    """A check that raises DatabaseUnavailable."""

    async def check() -> None:
        await within(order_details.ping(database), CHECK_SECONDS)

    return check


def temporal_timeout(client: Client) -> Callable[[], Awaitable[None]]:
    """A check that raises TemporalUnavailable."""

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


def _abandon(task: asyncio.Future[Any]) -> None:
    """Cancels without waiting: a driver first tries to cancel at its server, which may be what hangs."""
    task.add_done_callback(lambda done: done.cancelled() or done.exception())
    task.cancel()
