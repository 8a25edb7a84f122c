"""Lists order workflows from Temporal's visibility store."""

from collections.abc import AsyncIterator

from temporalio.client import Client, WorkflowExecution

from orchestrator.temporal.client import temporal_errors
from orchestrator.temporal.search_attributes import run_filter

CHUNK_SIZE = 200
"""Workflows that are compared concurrently."""

PAGE_SIZE = 1_000
"""The maximum of the server. Each page costs it about 40 ms besides its rows."""

CLOSED = "ExecutionStatus != 'Running'"
RUNNING = "ExecutionStatus = 'Running'"


def list_filter(status_filter: str, run_id: str | None, task_queue: str | None = None) -> str:
    """Return the list filter for the order workflows of a run. Without a run, it selects the workflows of one
    task queue (None: any), because another system can share the namespace."""
    query = f"WorkflowType = 'OrderWorkflow' AND {status_filter}"
    if run_id is not None:
        return f"{query} AND {run_filter(run_id)}"
    return query if task_queue is None else f"{query} AND TaskQueue = '{task_queue}'"


async def list_chunks(client: Client, query: str) -> AsyncIterator[list[WorkflowExecution]]:
    """Yield the listed workflows in chunks."""
    chunk: list[WorkflowExecution] = []
    with temporal_errors():
        async for execution in client.list_workflows(query, page_size=PAGE_SIZE):
            chunk.append(execution)
            if len(chunk) == CHUNK_SIZE:
                yield chunk
                chunk = []
    if chunk:
        yield chunk
