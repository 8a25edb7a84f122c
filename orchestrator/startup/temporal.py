"""Version, namespace and clock of Temporal."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import suppress
from time import time
from uuid import uuid4

from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice import v1 as api
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from db.maintenance.diagnostics import clock_ahead
from orchestrator.startup.findings import Finding, clock_findings, first_line
from orchestrator.temporal import search_attributes, task_queues
from orchestrator.temporal.client import temporal_errors

MIN_TEMPORAL = (1, 28)

_REJECTED = (RPCStatusCode.PERMISSION_DENIED, RPCStatusCode.UNAUTHENTICATED)

NAMESPACE_MISSING = "namespace-missing"

CLOCK_QUEUE = "orders-clock"
"""A task queue without tasks."""

CLOCK_TIMEOUT_SECONDS = 2.0
CLOCK_POLL_SECONDS = 0.02


async def check_temporal(client: Client, clock: Callable[[], float] = time) -> list[Finding]:
    """Raises TemporalUnavailable if the server is unavailable."""
    with temporal_errors():
        try:
            findings = list(version_findings(await server_version(client)))
            if not await _namespace_exists(client):
                return [*findings, *namespace_findings(client.namespace)]
            if not await search_attributes.is_registered(client):
                findings += search_attribute_findings(client.namespace)
            ahead_seconds = await clock_ahead_seconds(client, clock)
        except RPCError as error:
            if error.status in _REJECTED:
                return [_rejection(client.namespace, error)]
            raise
    return [*findings, *clock_findings("clock-temporal", "Temporal's clock", ahead_seconds or 0.0)]


def _rejection(namespace: str, error: RPCError) -> Finding:
    return Finding(
        "temporal-credentials",
        f"Temporal rejected a request for the namespace {namespace}: {first_line(error)}.",
        "Correct TEMPORAL_NAMESPACE, TEMPORAL_API_KEY or the client certificate.",
    )


async def server_version(client: Client) -> str:
    """Return for example "1.32.0"; "" if the server does not report it."""
    system = await client.workflow_service.get_system_info(
        api.GetSystemInfoRequest(), retry=False, timeout=task_queues.RPC_TIMEOUT
    )
    return system.server_version


async def _namespace_exists(client: Client) -> bool:
    request = api.DescribeNamespaceRequest(namespace=client.namespace)
    try:
        await client.workflow_service.describe_namespace(
            request, retry=False, timeout=task_queues.RPC_TIMEOUT
        )
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            return False
        raise
    return True


async def clock_ahead_seconds(client: Client, clock: Callable[[], float]) -> float | None:
    """Return how many seconds Temporal's clock is ahead of ours; negative if it is behind.

    The API has no call that returns the server's time. The server records the time of each poll of a task
    queue. Returns None if it does not show the poll in time.
    """
    identity = f"clock-{uuid4().hex}"
    sent_at = clock()
    request = api.PollActivityTaskQueueRequest(
        namespace=client.namespace, task_queue=TaskQueue(name=CLOCK_QUEUE), identity=identity
    )
    poll = asyncio.create_task(client.workflow_service.poll_activity_task_queue(request, retry=False))
    try:
        async with asyncio.timeout(CLOCK_TIMEOUT_SECONDS):
            while True:
                queue = await task_queues.describe_task_queue(client, CLOCK_QUEUE, activities=True)
                polled_at = task_queues.poll_times(queue).get(identity)
                if polled_at is not None:
                    return clock_ahead(polled_at.timestamp(), sent_at, clock())
                if poll.done():
                    await poll
                await asyncio.sleep(CLOCK_POLL_SECONDS)
    except TimeoutError:
        return None
    finally:
        poll.cancel()
        with suppress(asyncio.CancelledError, RPCError):
            await poll


def version_findings(version: str) -> Iterator[Finding]:
    numbers = tuple(int(part) for part in version.split("-")[0].split(".") if part.isdecimal())
    if numbers and numbers < MIN_TEMPORAL:
        yield Finding(
            "temporal-old",
            f"The Temporal server is {version}; {'.'.join(map(str, MIN_TEMPORAL))} or newer is required.",
            "Upgrade that server.",
        )


def namespace_findings(namespace: str) -> Iterator[Finding]:
    yield Finding(
        "namespace-missing",
        f"The Temporal server has no namespace {namespace}.",
        "Create it, or correct TEMPORAL_NAMESPACE.",
    )


def search_attribute_findings(namespace: str) -> Iterator[Finding]:
    name = search_attributes.ORDER_RUN_ID.name
    yield Finding(
        "search-attribute-missing",
        f"The Temporal namespace {namespace} has no search attribute {name} of type Keyword.",
        "Create it: temporal operator search-attribute create "
        f"--namespace {namespace} --name {name} --type Keyword.",
    )
