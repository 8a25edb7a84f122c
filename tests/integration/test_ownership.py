"""Two order databases, or two Temporal servers: workers of the wrong one do no harm."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
import pytest_asyncio
from temporalio.client import Client

from db.database import Database
from db.domain import TemporalNamespace
from db.maintenance.reconciliation import Reconciliation, reconcilers, register
from db.orders import OrderRepository
from orchestrator.api.admission import Admission
from orchestrator.api.order_service import OrderService
from orchestrator.embedded import Stack
from orchestrator.embedded.layout import PROJECT_ROOT, stack_environment
from orchestrator.errors import OrderConflict, ServiceUnavailable, StartRefused, WrongDatabase
from orchestrator.messages.ids import compensation_task_queue, order_workflow_id
from orchestrator.settings import STACK_MARKER, Settings
from orchestrator.startup import task_queue_claims
from orchestrator.startup.task_queue_claims import claim_id, claim_task_queues, task_queues_of
from orchestrator.temporal.client import connect, temporal_namespace
from tests.command_line import CommandLine
from tests.integration.test_doctor import findings_of
from tests.live import LiveApi
from tests.orders import TEMPORAL, OrderDriver, new_order
from tests.ports import free_port_base
from tests.servers import PostgresServer
from tests.temporal_server import temporal_server

NEW_IDENTITY = "update database_identity set database_id = gen_random_uuid()"
TAKEN = "in the Temporal namespace default serves another order database"


@pytest.fixture
def other_database(postgres: PostgresServer) -> Iterator[str]:
    """The URL of an order database with an identity of its own."""
    with postgres.fresh_database() as url:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(NEW_IDENTITY)
        yield url


@pytest_asyncio.fixture
async def other_pool(other_database: str) -> AsyncIterator[Database]:
    async with Database(other_database, max_size=2) as database:
        yield database


@pytest.fixture
def queue() -> str:
    return f"queue-{uuid4().hex[:8]}"


@pytest_asyncio.fixture
async def client(live_stack: Stack) -> Client:
    return await connect(live_stack.settings)


def environment(settings: Settings) -> dict[str, str]:
    return {name: value for name, value in stack_environment(settings).items() if name != STACK_MARKER}


def settings_for(home: Path, database_url: str, temporal: Settings, **others: object) -> Settings:
    return Settings(
        orders_home=home,
        database_url=database_url,
        temporal_address=temporal.temporal_target,
        port_base=free_port_base(),
        **others,  # type: ignore[arg-type]
    )


# --- Two order databases at one Temporal server --------------------------------------------------------


@pytest.mark.stack
@pytest.mark.parametrize("component", [("worker", "order"), ("worker", "shipping"), ("api",)])
def test_a_process_of_another_database_is_refused(
    component: tuple[str, ...], live: LiveApi, live_stack: Stack, other_database: str, tmp_path: Path
) -> None:
    live.finished(live.start())
    settings = settings_for(tmp_path, other_database, live_stack.settings)
    ended = subprocess.run(
        [sys.executable, "-m", "orchestrator", *component],
        cwd=PROJECT_ROOT,
        env=environment(settings),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert ended.returncode == 2, (ended.stdout, ended.stderr)
    assert TAKEN in ended.stderr
    assert ended.stderr.count("\n") == 1, ended.stderr


@pytest.mark.stack
def test_a_stack_of_another_database_is_refused_before_its_workers_start(
    live_stack: Stack, other_database: str, tmp_path: Path
) -> None:
    stack = Stack(settings_for(tmp_path, other_database, live_stack.settings))
    with pytest.raises(StartRefused, match=TAKEN):
        stack.up()
    assert stack.processes() == []


@pytest.mark.stack
async def test_a_start_at_an_api_of_another_database_is_unavailable(
    client: Client, live_stack: Stack, other_pool: Database
) -> None:
    settings = live_stack.settings
    service = OrderService(settings, other_pool, client, Admission(settings, other_pool))
    with pytest.raises(ServiceUnavailable, match=TAKEN):
        await service.start(new_order())


@pytest.mark.stack
async def test_an_order_of_another_system_in_the_namespace_is_unknown(
    client: Client, live_stack: Stack, pool: Database, queue: str
) -> None:
    """The two systems have different task queues, and use the same order id."""
    settings = live_stack.settings.model_copy(
        update={"order_task_queue": queue, "shipping_task_queue": f"{queue}-2"}
    )
    service = OrderService(settings, pool, client, Admission(settings, pool))
    order = new_order()
    workflow_id = order_workflow_id(order.order_id)
    other = await client.start_workflow("OrderWorkflow", order, id=workflow_id, task_queue=f"{queue}-3")
    assert await service.workflow_start(order.order_id) is None
    with pytest.raises(OrderConflict):
        await service.start(order)
    await other.terminate()


@pytest.mark.stack
async def test_the_doctor_reports_a_task_queue_of_another_database(
    live_stack: Stack, other_database: str, tmp_path: Path
) -> None:
    found = await findings_of(settings_for(tmp_path, other_database, live_stack.settings))
    assert TAKEN in found["task-queue-taken"]


async def test_an_order_for_another_database_is_not_inserted(pool: Database) -> None:
    repository = OrderRepository(pool, "worker-1", TEMPORAL)
    order = new_order(database_id=str(uuid4()))
    with pytest.raises(WrongDatabase, match=f"order {order.order_id} was placed for order database"):
        await OrderDriver(repository, pool).open(order)


# --- Claims of task queues -----------------------------------------------------------------------------


@pytest.mark.stack
async def test_one_of_several_databases_that_start_at_once_gets_the_task_queue(
    client: Client, pool: Database, other_pool: Database, queue: str
) -> None:
    claims = (claim_task_queues(client, database, [queue]) for database in (pool, other_pool))
    results = await asyncio.gather(*claims, return_exceptions=True)
    assert sorted(type(each).__name__ for each in results) == ["StartRefused", "str"]


@pytest.mark.stack
async def test_the_task_queue_of_the_compensations_is_claimed_too(
    client: Client, pool: Database, other_pool: Database, queue: str
) -> None:
    own = Settings(order_task_queue=queue, shipping_task_queue=f"{queue}-shipping")
    other = Settings(
        order_task_queue=compensation_task_queue(queue), shipping_task_queue=f"{queue}-other-shipping"
    )
    await claim_task_queues(client, pool, task_queues_of(own))
    with pytest.raises(StartRefused, match=TAKEN):
        await claim_task_queues(client, other_pool, task_queues_of(other))


@pytest.mark.stack
async def test_a_claim_is_kept_while_a_workflow_of_the_task_queue_is_open(
    client: Client, pool: Database, other_pool: Database, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task_queue_claims, "_STARTING", timedelta(0))
    own_id = await claim_task_queues(client, pool, [queue])
    assert await claim_task_queues(client, pool, [queue]) == own_id
    order = await client.start_workflow("OrderWorkflow", id=f"order-{queue}", task_queue=queue)
    query = f"TaskQueue = '{queue}' AND ExecutionStatus = 'Running'"
    async with asyncio.timeout(60):
        while not (await client.count_workflows(query)).count:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    with pytest.raises(StartRefused, match=TAKEN):
        await claim_task_queues(client, other_pool, [queue])
    await order.terminate()


@pytest.mark.stack
async def test_an_unused_task_queue_is_given_to_the_next_database(
    client: Client, pool: Database, other_pool: Database, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await claim_task_queues(client, pool, [queue])
    with pytest.raises(StartRefused):
        await claim_task_queues(client, other_pool, [queue])
    monkeypatch.setattr(task_queue_claims, "_STARTING", timedelta(0))
    await claim_task_queues(client, other_pool, [queue])
    # The claim itself has no task: nothing waits for a worker.
    claim = await client.get_workflow_handle(claim_id(queue)).describe()
    assert (claim.workflow_type, claim.history_length) == ("TaskQueueClaim", 1)


# --- Two Temporal servers at one order database ----------------------------------------------------------


@contextmanager
def running_worker(settings: Settings) -> Iterator[None]:
    process = subprocess.Popen(
        [sys.executable, "-m", "orchestrator", "worker", "order", "--name", "stray"],
        cwd=PROJECT_ROOT,
        env=environment(settings),
    )
    try:
        yield
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture
def other_temporal() -> Iterator[Settings]:
    with temporal_server() as settings:
        yield settings


async def passes_of(temporal: TemporalNamespace, database: Database, count: int) -> None:
    """Wait for passes of the reconciler of this Temporal namespace."""
    leases = set()
    while len(leases) < count:
        states = [each for each in await reconcilers(database) if each.temporal == temporal]
        leases |= {each.leader_until for each in states if each.has_leader}
        await asyncio.sleep(0.2)


@pytest.mark.stack
async def test_a_worker_with_another_temporal_server_closes_no_order(
    live: LiveApi, live_stack: Stack, other_temporal: Settings, tmp_path: Path
) -> None:
    settings = settings_for(tmp_path, live_stack.settings.order_database_url, other_temporal)
    other = await temporal_namespace(await connect(settings))
    async with Database(settings.order_database_url, max_size=1) as database, asyncio.timeout(60):
        with running_worker(settings):
            await passes_of(other, database, 1)
            order_id = live.start(review="manual")
            live.in_state(order_id, "in_review")
            # After seven passes the order is older than an orphan that is closed.
            await passes_of(other, database, 7)
            # Its review expires nine seconds after its acceptance, so it is approved at once.
            assert live.signal(order_id, "approve", reviewer="anna").status_code == 200
            assert live.finished(order_id)["status"] == "completed"
            live.in_state(live.start(review="manual"), "in_review")
            found = await findings_of(settings)
    assert other.cluster_id in found["orders-of-another-cluster"]


# --- Commands ------------------------------------------------------------------------------------------


@pytest.mark.stack
async def test_the_reconciler_is_shown_resumed_and_gets_the_orders_of_a_lost_cluster(
    live_stack: Stack, pool: Database, order_database_url: str, tmp_path: Path
) -> None:
    settings = settings_for(tmp_path, order_database_url, live_stack.settings, order_task_queue="unused-tq")
    current = await temporal_namespace(await connect(settings))
    command_line = CommandLine(environment(settings))
    order_id = await OrderDriver(OrderRepository(pool, "worker-1", TEMPORAL), pool).open()
    for temporal in (TEMPORAL, current):
        await register(pool, temporal)
    table = Reconciliation(pool, TEMPORAL, "leader-1")
    await table.take_lease(timedelta(minutes=1))
    await table.stop([order_id, "another"])

    code, printed = await command_line.run("reconciler")
    assert (code, "leader leader-1, 1 open orders" in printed) == (0, True), printed
    assert f"2 orphaned orders, for example {order_id}, another." in printed
    code, printed = await command_line.run("reconciler", "--json")
    shown = {each["cluster_id"]: each for each in json.loads(printed)["reconcilers"]}
    assert shown[TEMPORAL.cluster_id]["orphans"] == 2
    assert shown[current.cluster_id]["stopped_at"] is None
    found = await findings_of(settings)
    assert order_id in found["reconciler-stopped"]

    code, printed = await command_line.run("reconciler", "resume")
    assert (code, TEMPORAL.cluster_id in printed) == (0, True), printed
    code, printed = await command_line.run("reconciler", "resume")
    assert (code, printed.strip()) == (0, "The reconciler is not stopped.")

    code, printed = await command_line.run("reconciler", "adopt", TEMPORAL.cluster_id)
    assert (code, "Worker leader-1 is connected to Temporal cluster" in printed) == (2, True), printed
    await pool.execute("update reconcilers set leader_until = now()")
    code, printed = await command_line.run("reconciler", "adopt", current.cluster_id)
    assert (code, "it is not lost" in printed) == (2, True), printed
    code, printed = await command_line.run("reconciler", "adopt", TEMPORAL.cluster_id)
    assert (code, printed.startswith("1 orders moved")) == (0, True), printed
    code, printed = await command_line.run("reconciler", "adopt", TEMPORAL.cluster_id)
    assert (code, "No open order belongs to" in printed) == (2, True), printed
    assert [each.open_orders for each in await reconcilers(pool) if each.temporal == current] == [1]
