"""An embedded PostgreSQL for the session, a fresh migrated database for each module, and a running stack."""

from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from db.database import Database
from db.orders import OrderRepository
from orchestrator.embedded import Stack
from tests.live import LiveApi
from tests.orders import TEMPORAL, OrderDriver
from tests.patient_pool import patient_pool
from tests.servers import PostgresServer, postgres_server
from tests.stacks import stack_settings, temporary_home


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
    async with patient_pool(order_database_url, "tests") as database:
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
    with temporary_home("orders-live-") as home:
        stack = Stack(stack_settings(home).model_copy(update={"auto_review_seconds": 0.3}))
        stack.up(bound=True)
        yield stack


@pytest.fixture(scope="session")
def live(live_stack: Stack) -> Iterator[LiveApi]:
    with LiveApi(live_stack.settings.api_url) as api:
        yield api
