"""Wait for PostgreSQL and Temporal, then check them."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from concurrent.futures import ThreadPoolExecutor
from time import monotonic
from typing import Any, TypeVar

import structlog
from temporalio.client import Client

from db.database import Database
from orchestrator.errors import ServiceUnavailable, StartRefused, WrongCredentials
from orchestrator.security import bind_policy
from orchestrator.settings import Settings
from orchestrator.startup.database import check_database
from orchestrator.startup.findings import Finding, first_line, refuse
from orchestrator.startup.task_queue_claims import check_task_queues, claim_task_queues
from orchestrator.startup.temporal import NAMESPACE_MISSING, check_temporal
from orchestrator.temporal.client import connect

T = TypeVar("T")

RETRY_SECONDS = 0.5

NAMESPACE_SECONDS = 10.0
"""A server that has just started has no namespace for a moment."""

log = structlog.get_logger()


def run_check(check: Coroutine[Any, Any, T]) -> T:
    """Return the result of a check. The caller may have an event loop."""
    with ThreadPoolExecutor(max_workers=1) as thread:
        return thread.submit(asyncio.run, check).result()


async def check_servers(settings: Settings) -> list[Finding]:
    """Check PostgreSQL and Temporal. Raises ServiceUnavailable if one of them is unavailable."""
    client = await connect(settings, identity="startup")
    findings = [*await check_database(settings), *await check_temporal(client)]
    return findings or await check_task_queues(settings, client)


async def wait_for_api_keys(settings: Settings, component: str) -> None:
    """Wait until PostgreSQL is available if API keys are required on BIND_ADDRESS. Raises UsageError if there
    are none."""
    if not bind_policy.is_loopback(settings.bind_address):
        await wait_for(
            "PostgreSQL", lambda: asyncio.to_thread(bind_policy.require_api_keys, settings, component)
        )


async def wait_for_database(settings: Settings) -> None:
    """Wait until PostgreSQL is available, and check it. Raises StartRefused."""

    async def check() -> None:
        try:
            refuse(await check_database(settings))
        except WrongCredentials as error:
            raise StartRefused(f"{error} PostgreSQL: {first_line(error.__cause__)}.") from error

    await wait_for("PostgreSQL", check)


async def wait_for_temporal(client: Client) -> None:
    """Wait until Temporal is available, and check it. Raises StartRefused."""
    began = monotonic()

    async def check() -> None:
        findings = await check_temporal(client)
        is_starting = monotonic() - began < NAMESPACE_SECONDS
        if is_starting and any(finding.key == NAMESPACE_MISSING for finding in findings):
            raise ServiceUnavailable(findings[-1].message)
        refuse(findings)

    await wait_for("Temporal", check)


async def wait_for_task_queues(client: Client, database: Database, queues: Iterable[str]) -> str:
    """Claim the task queues for the order database, and return its id. Waits while a server is unavailable.

    Raises StartRefused if a queue serves another order database.
    """
    return await wait_for("PostgreSQL and Temporal", lambda: claim_task_queues(client, database, queues))


async def wait_for(server: str, call: Callable[[], Awaitable[T]]) -> T:
    """Return the result of the call; repeat it while the server is unavailable."""
    while True:
        try:
            return await call()
        except ServiceUnavailable as error:
            log.warning(f"waiting for {server}", reason=first_line(error.__cause__ or error))
            await asyncio.sleep(RETRY_SECONDS)
