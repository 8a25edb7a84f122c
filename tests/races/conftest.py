"""A PostgreSQL and a Temporal server for the races alone."""

import logging
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio
import structlog
from temporalio.client import Client

from db.database import Database
from orchestrator.settings import Settings
from orchestrator.temporal.client import connect
from tests.servers import postgres_server
from tests.temporal_server import temporal_server


@pytest.fixture(scope="package")
def settings() -> Iterator[Settings]:
    """Settings that point to both servers."""
    with postgres_server() as postgres, temporal_server() as temporal, postgres.fresh_database() as url:
        yield temporal.model_copy(update={"database_url": url})


@pytest_asyncio.fixture(scope="package", loop_scope="session")
async def pool(settings: Settings) -> AsyncIterator[Database]:
    async with Database(settings.order_database_url, max_size=16, application_name="races") as database:
        yield database


@pytest_asyncio.fixture(scope="package", loop_scope="session")
async def client(settings: Settings) -> Client:
    return await connect(settings)


@pytest.fixture
def only_errors_are_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Failed attempts are expected here, and logging them takes time."""
    caplog.set_level(logging.ERROR)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    yield
    structlog.reset_defaults()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the grid."""
    for report in [report for each in ("passed", "failed") for report in terminalreporter.getreports(each)]:
        for name, table in report.user_properties:
            if name == "races":
                terminalreporter.section("races: accepted / too late / closed")
                terminalreporter.write_line(table)
