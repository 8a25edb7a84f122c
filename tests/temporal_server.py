"""A Temporal development server for tests, in a temporary directory and on free ports."""

import asyncio
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep

from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest
from temporalio.service import RPCError

from orchestrator.embedded import temporal
from orchestrator.embedded.layout import Layout, packaged_program
from orchestrator.errors import TemporalUnavailable
from orchestrator.settings import Settings
from orchestrator.temporal.client import connect
from tests.directories import temporary_directory
from tests.ports import free_port_base

STARTUP_SECONDS = 60.0
STOP_SECONDS = 5.0


@contextmanager
def temporal_server() -> Iterator[Settings]:
    """Start the server with the stack's options, and yield the settings to connect to it."""
    with temporary_directory("orders-temporal-") as home:
        settings = Settings(orders_home=home, port_base=free_port_base(), temporal_address=None)
        layout = Layout(settings)
        layout.temporal_data.mkdir()
        with (home / "temporal.log").open("wb") as log:
            process = subprocess.Popen(
                temporal.server_command(settings),
                stdout=log,
                stderr=log,
                cwd=layout.temporal_data,
                env={**os.environ, **temporal.ENVIRONMENT},
            )
        try:
            _wait_until_ready(settings, process, home / "temporal.log")
            temporal.prepare_visibility(settings, layout)
            yield settings
        finally:
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


async def temporal_workflow(address: str, *arguments: str) -> str:
    """Return the output of `temporal workflow ...`, which must succeed."""
    process = await asyncio.create_subprocess_exec(
        packaged_program("temporal"),
        "workflow",
        *arguments,
        *("--address", address),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, error = await process.communicate()
    assert process.returncode == 0, error.decode()
    return out.decode()


def _wait_until_ready(settings: Settings, process: subprocess.Popen[bytes], log: Path) -> None:
    not_after = monotonic() + STARTUP_SECONDS
    while not asyncio.run(is_ready(settings)):
        if process.poll() is not None or monotonic() > not_after:
            raise RuntimeError(f"Temporal did not start:\n{log.read_text()}")
        sleep(0.05)


async def is_ready(settings: Settings) -> bool:
    """Return whether the server and its namespace can be used."""
    try:
        client = await connect(settings)
        await client.workflow_service.describe_namespace(
            DescribeNamespaceRequest(namespace=settings.temporal_namespace)
        )
        # The namespace is usable by task queues a moment after it is described.
        await client.count_workflows()
    except (TemporalUnavailable, RPCError):
        return False
    return True
