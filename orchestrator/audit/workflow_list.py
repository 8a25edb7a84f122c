"""Lists order workflows from Temporal's visibility store."""

from collections.abc import AsyncIterator
from datetime import datetime, timedelta

from temporalio.client import Client, WorkflowExecution

from orchestrator.temporal_client import temporal_errors

CHUNK_SIZE = 200
"""Workflows that are compared concurrently."""

PAGE_SIZE = 1_000
"""The maximum of the server. Each page costs it about 40 ms besides its rows."""

MAX_CLOCK_SKEW = timedelta(minutes=1)
"""Between the load generator, PostgreSQL and Temporal."""

MAX_UNRECORDED_RUN = timedelta(days=1)
"""How long before its first order in the database a run without a record can have started."""


CLOSED = "ExecutionStatus != 'Running'"
RUNNING = "ExecutionStatus = 'Running'"


def list_filter(
    status_filter: str,
    run_id: str | None,
    since: datetime | None,
    run_started_at: datetime | None,
    task_queue: str | None = None,
) -> str:
    """Return the list filter for order workflows of a time range that contains the run. Without a run, it
    selects the workflows of one task queue (None: any), because another system can share the namespace.

    The search begins at the start of a recorded run, or MAX_UNRECORDED_RUN before the run's first order
    (`since`). It has no lower bound when the database has no order of the run, because then all of them may
    be lost.
    """
    query = f"WorkflowType = 'OrderWorkflow' AND {status_filter}"
    if run_id is None:
        return query if task_queue is None else f"{query} AND TaskQueue = '{task_queue}'"
    if run_started_at is not None:
        begin = min(run_started_at, since or run_started_at) - MAX_CLOCK_SKEW
    elif since is not None:
        begin = since - MAX_UNRECORDED_RUN
    else:
        return query
    return f"{query} AND StartTime >= '{begin.isoformat()}'"


async def list_chunks(
    client: Client, query: str, run_id: str | None
) -> AsyncIterator[list[WorkflowExecution]]:
    """Yield the listed workflows of one run (by the memo) or of all, in chunks."""
    chunk: list[WorkflowExecution] = []
    with temporal_errors():
        async for execution in client.list_workflows(query, page_size=PAGE_SIZE):
            if run_id is not None and await execution.memo_value("run_id", None) != run_id:
                continue
            chunk.append(execution)
            if len(chunk) == CHUNK_SIZE:
                yield chunk
                chunk = []
    if chunk:
        yield chunk
