"""An embedded PostgreSQL for the session, a fresh migrated database for each module, and a running stack."""

import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from db.database import Database
from db.orders import OrderRepository
from orchestrator.embedded import Stack
from orchestrator.settings import Settings
from tests import secrets
from tests.live import LiveApi
from tests.orders import TEMPORAL, OrderDriver
from tests.ports import free_port_base
from tests.servers import PostgresServer, postgres_server


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    with postgres_server() as server:
        yield server


@pytest.fixture(scope="module")
def order_database_url(postgres: PostgresServer) -> Iterator[str]:
    with postgres.fresh_database() as url:
        yield url


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def pool(order_database_url: str) -> AsyncIterator[Database]:
    async with Database(order_database_url, max_size=16, application_name="tests") as database:
        yield database


@pytest.fixture(scope="module")
def repository(pool: Database) -> OrderRepository:
    return OrderRepository(pool, "worker-1", TEMPORAL)


@pytest.fixture(scope="module")
def driver(repository: OrderRepository, pool: Database) -> OrderDriver:
    return OrderDriver(repository, pool)


@pytest.fixture(scope="session")
def live_stack() -> Iterator[Stack]:
    """A healthy stack. A test that stops a component restarts it."""
    home = Path(tempfile.mkdtemp(prefix="orders-live-")).resolve()
    settings = Settings(
        orders_home=home,
        port_base=free_port_base(),
        database_url=None,
        temporal_address=None,
        order_workers=1,
        shipping_workers=1,
        auto_review_seconds=0.3,
    )
    stack = Stack(settings)
    try:
        stack.up(bound=True)
        yield stack
    finally:
        stack.down()
        try:
            secrets.require_none_below(home / "logs")
        finally:
            shutil.rmtree(home)


@pytest.fixture(scope="session")
def live(live_stack: Stack) -> Iterator[LiveApi]:
    with LiveApi(live_stack.settings.api_url) as api:
        yield api
