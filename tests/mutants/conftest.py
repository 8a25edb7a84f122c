"""A PostgreSQL server, a Temporal server and an API for the mutants alone."""

import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from time import monotonic, sleep

import httpx
import pytest
import pytest_asyncio
from temporalio.client import Client

from db.database import Database
from orchestrator.embedded.layout import PROJECT_ROOT, stack_environment
from orchestrator.settings import Settings
from orchestrator.temporal.client import connect
from tests.command_line import CommandLine
from tests.patient_pool import patient_pool
from tests.servers import postgres_server
from tests.temporal_server import temporal_server

API_STARTUP_SECONDS = 60.0


@pytest.fixture(scope="package")
def settings() -> Iterator[Settings]:
    """Settings that point to both servers."""
    with postgres_server() as postgres, temporal_server() as temporal, postgres.fresh_database() as url:
        yield temporal.model_copy(update={"database_url": url})


@pytest_asyncio.fixture(scope="package", loop_scope="session")
async def pool(settings: Settings) -> AsyncIterator[Database]:
    async with patient_pool(settings.order_database_url, "mutants") as database:
        yield database


@pytest_asyncio.fixture(scope="package", loop_scope="session")
async def client(settings: Settings) -> Client:
    return await connect(settings)


@pytest.fixture(scope="package")
def command_line(settings: Settings) -> Iterator[CommandLine]:
    """Commands that use an API on these servers."""
    own = settings.model_copy(update={"temporal_address": settings.temporal_target})
    environment = {**stack_environment(own), "COLUMNS": "200"}
    log = own.home / "api.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "orchestrator", "api"],
            env=environment,
            cwd=PROJECT_ROOT,
            stdout=output,
            stderr=output,
        )
    try:
        not_after = monotonic() + API_STARTUP_SECONDS
        while not _responds(own.api_url):
            if process.poll() is not None or monotonic() > not_after:
                raise RuntimeError(f"the API did not start:\n{log.read_text()}")
            sleep(0.05)
        yield CommandLine(environment)
    finally:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _responds(api_url: str) -> bool:
    try:
        return httpx.get(f"{api_url}/faults", trust_env=False).is_success
    except httpx.TransportError:
        return False
