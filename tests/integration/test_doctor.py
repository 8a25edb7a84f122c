"""The doctor against real servers: a healthy system, and every fault once.

For faults that take long to produce, such as a full disk, the tests lower the threshold.
"""

import asyncio
import json
import os
import shutil
import signal
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from google.protobuf.duration_pb2 import Duration
from psycopg.conninfo import make_conninfo
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import PollWorkflowTaskQueueRequest, RegisterNamespaceRequest
from temporalio.client import Client

from db.database import Database
from db.orders import OrderRepository
from orchestrator.embedded import Stack
from orchestrator.embedded.layout import Layout
from orchestrator.operations.doctor import database, diagnose, machine, temporal
from orchestrator.settings import Settings
from orchestrator.startup import database as startup_database
from orchestrator.startup import temporal as startup_temporal
from orchestrator.temporal.client import connect
from tests.command_line import CommandLine
from tests.live import eventually
from tests.orders import TEMPORAL, OrderDriver
from tests.ports import free_port_base

NOWHERE = "postgresql://unknown@127.0.0.1:1/orders"
NO_TEMPORAL = "127.0.0.1:1"
NO_API = "http://127.0.0.1:1"
UNAVAILABLE = {"temporal-unavailable", "api-unavailable"}
"""Findings that every test with external servers has."""

OBSERVE_SECONDS = 15.0
CLOCK_OFF_SECONDS = 10.0


def external(home: Path, url: str, **others: Any) -> Settings:
    """External servers. Temporal is unavailable; no stack and no API are running."""
    places = {"database_url": url, "temporal_address": NO_TEMPORAL, "configured_api_url": NO_API}
    return Settings(orders_home=home, **places | others)


async def findings_of(settings: Settings, now: Callable[[], float] = time.time) -> dict[str, str]:
    """Return the messages by key. An observation ends within seconds, even without any server."""
    began = time.monotonic()
    report = await diagnose(settings, now)
    assert time.monotonic() - began < OBSERVE_SECONDS
    found: dict[str, str] = {}
    for finding in report.findings:
        found[finding.key] = f"{found.get(finding.key, '')} {finding.message}".strip()
    return found


async def until(settings: Settings, key: str, words: str = "") -> str:
    """Wait for a finding with these words and return its message."""

    def look() -> str | None:
        message = asyncio.run(findings_of(settings)).get(key)
        return message if message is not None and words in message else None

    return str(await asyncio.to_thread(eventually, look))


async def until_healthy(settings: Settings) -> set[str]:
    """Wait until the stack is healthy and return the remaining findings.

    Other tests may have restarted components.
    """
    tolerated = {"component-restarting"}
    await asyncio.to_thread(eventually, lambda: set(asyncio.run(findings_of(settings))) <= tolerated)
    return set(await findings_of(settings))


@pytest.mark.stack
async def test_a_healthy_stack_has_no_problems(live_stack: Stack) -> None:
    left = await until_healthy(live_stack.settings)
    environment = {
        **os.environ,
        "ORDERS_HOME": str(live_stack.settings.home),
        "PORT_BASE": str(live_stack.settings.port_base),
    }
    code, output = await CommandLine(environment).run("doctor")
    assert (code, "No problems found" in output, "PostgreSQL 18" in output) == (len(left), not left, True), (
        output
    )
    code, output = await CommandLine(environment).run("doctor", "--json")
    report = json.loads(output)
    assert (code, report["healthy"]) == (len(left), not left)
    assert {finding["key"] for finding in report["findings"]} == left


@pytest.mark.stack
async def test_a_queue_without_workers(live_stack: Stack) -> None:
    live_stack.stop("shipping-worker-1")
    try:
        assert "shipping-tq" in await until(live_stack.settings, "queue-without-workers")
        assert "shipping-worker-1" in (await findings_of(live_stack.settings))["component-down"]
    finally:
        live_stack.start("shipping-worker-1")
    await until_healthy(live_stack.settings)


@pytest.mark.stack
async def test_a_session_that_waits_for_a_lock(live_stack: Stack) -> None:
    url = live_stack.settings.order_database_url

    def wait_for_it() -> None:
        with psycopg.connect(url, application_name="waiter") as waiter:
            waiter.execute("select pg_advisory_lock(20261124)")

    with psycopg.connect(url) as holder:
        holder.execute("select pg_advisory_lock(20261124)")
        waiting = asyncio.create_task(asyncio.to_thread(wait_for_it))
        assert "(waiter) has been waiting" in await until(live_stack.settings, "database-locked")
    await waiting


@pytest.mark.stack
async def test_a_closed_port_and_a_restarting_component(live_stack: Stack, monkeypatch) -> None:
    monkeypatch.setattr(machine, "MAX_RESTARTS", 1)
    settings = live_stack.settings
    live_stack.stop("locust")
    try:
        await until(settings, "port-closed", f"port {settings.port('locust')} (the load tests)")
    finally:
        live_stack.start("locust")
    live_stack.kill("locust")
    await until(settings, "component-restarting", "locust restarted")
    live_stack.wait_until_healthy(["locust"])


@pytest.mark.stack
async def test_servers_that_are_too_old_and_a_disk_that_is_too_small(live_stack: Stack, monkeypatch) -> None:
    monkeypatch.setattr(startup_database, "MIN_SERVER_VERSION", 990000)
    monkeypatch.setattr(startup_temporal, "MIN_TEMPORAL", (99, 0))
    monkeypatch.setattr(machine, "DISK_BYTES", 10**18)
    found = await findings_of(live_stack.settings)
    assert "PostgreSQL is 18" in found["database-old"]
    assert "Temporal server is 1." in found["temporal-old"]
    assert str(live_stack.settings.home) in found["disk-full"]


@pytest.mark.stack
async def test_clock_offsets(live_stack: Stack) -> None:
    found = await findings_of(live_stack.settings, lambda: time.time() - CLOCK_OFF_SECONDS)
    assert "ahead of this machine's" in found["clock-database"]
    assert "ahead of this machine's" in found["clock-temporal"]
    found = await findings_of(live_stack.settings, lambda: time.time() + CLOCK_OFF_SECONDS)
    assert "behind this machine's" in found["clock-database"]
    assert "behind this machine's" in found["clock-temporal"]


@pytest.mark.stack
async def test_a_missing_namespace_and_equal_task_queues(live_stack: Stack, tmp_path) -> None:
    settings = external(
        tmp_path,
        live_stack.settings.order_database_url,
        temporal_address=live_stack.settings.temporal_target,
        TEMPORAL_NAMESPACE="nowhere",
        shipping_task_queue="order-tq",
    )
    assert set(await findings_of(settings)) == {"namespace-missing", "task-queues-equal", "api-unavailable"}


@pytest.mark.stack
async def test_a_missing_search_attribute(live_stack: Stack, tmp_path: Path) -> None:
    target = live_stack.settings.temporal_target
    client = await Client.connect(target)
    await client.workflow_service.register_namespace(
        RegisterNamespaceRequest(
            namespace="bare", workflow_execution_retention_period=Duration(seconds=86_400)
        )
    )
    url = live_stack.settings.order_database_url
    settings = external(tmp_path, url, temporal_address=target, TEMPORAL_NAMESPACE="bare")
    await until(settings, "search-attribute-missing", "no search attribute OrderRunId")


@pytest.mark.stack
async def test_a_backlog_of_a_worker_that_stopped_polling(live_stack: Stack, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(temporal, "BACKLOG_AGE_SECONDS", 0.01)
    queue = "backlog-tq"
    settings = external(
        tmp_path,
        live_stack.settings.order_database_url,
        temporal_address=live_stack.settings.temporal_target,
        order_task_queue=queue,
    )
    client = await connect(settings)
    poll = PollWorkflowTaskQueueRequest(
        namespace=client.namespace, task_queue=TaskQueue(name=queue), identity="worker-1"
    )
    with suppress(TimeoutError):
        # The worker polls once and then stops.
        async with asyncio.timeout(0.3):
            await client.workflow_service.poll_workflow_task_queue(poll, retry=False)
    waiting = [
        await client.start_workflow("AnyWorkflow", id=f"{queue}-{n}", task_queue=queue) for n in range(3)
    ]
    try:
        await until(settings, "queue-backlog", f"3 tasks are waiting on task queue {queue}")
    finally:
        for workflow in waiting:
            await workflow.terminate()


async def test_the_stack_is_down_and_a_port_is_taken(tmp_path) -> None:
    settings = Settings(
        orders_home=tmp_path, port_base=free_port_base(), database_url=None, temporal_address=None
    )
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", settings.port("api")))
        other.listen()
        found = await findings_of(settings)
    assert set(found) == {"stack-down", "port-taken"}
    assert f"process {os.getpid()}" in found["port-taken"]

    layout = Layout(settings)
    layout.control.mkdir()
    layout.sockets.mkdir(exist_ok=True)
    layout.supervisor_socket.touch()
    layout.running_settings.write_text(settings.model_dump_json())
    try:
        assert set(await findings_of(settings)) == {"stack-died", "orphan"}
    finally:
        shutil.rmtree(layout.sockets)


async def test_external_servers_that_are_unavailable(tmp_path) -> None:
    assert set(await findings_of(external(tmp_path, NOWHERE))) == UNAVAILABLE | {"database-unavailable"}
    environment = {
        "ORDERS_HOME": str(tmp_path),
        "DATABASE_URL": NOWHERE,
        "TEMPORAL_ADDRESS": NO_TEMPORAL,
        "API_URL": NO_API,
    }
    code, output = await CommandLine({**os.environ, **environment}).run("doctor")
    assert (code, "3 problems found" in output) == (1, True), output
    for advice in ("correct DATABASE_URL", "correct TEMPORAL_ADDRESS", "set API_URL"):
        assert advice in output
    assert "make" not in output


async def test_an_unknown_temporal_profile(tmp_path) -> None:
    config = tmp_path / "temporal.toml"
    config.write_text("[profile.other]\n")
    wrong = {"temporal_profile": "nowhere", "temporal_config_file": config}
    found = await findings_of(external(tmp_path, NOWHERE, **wrong))
    assert set(found) == UNAVAILABLE | {"database-unavailable"}
    assert "nowhere" in found["temporal-unavailable"]


async def hidden_connections(settings: Settings) -> list[int]:
    lines = (await diagnose(settings)).measurements
    return [int(line.split()[0]) for line in lines if "belong to other users" in line]


async def test_sessions_of_other_users_are_counted_and_reported_as_hidden(postgres, tmp_path) -> None:
    with postgres.fresh_database() as url, psycopg.connect(url):
        settings = external(tmp_path, make_conninfo(url, user="orders_writer"))
        (hidden,) = await hidden_connections(settings)
        assert hidden >= 1
        environment = {"ORDERS_HOME": str(tmp_path), "DATABASE_URL": settings.order_database_url}
        environment |= {"TEMPORAL_ADDRESS": NO_TEMPORAL, "API_URL": NO_API}
        _, output = await CommandLine({**os.environ, **environment}).run("doctor")
        assert "belong to other users" in output
        assert await hidden_connections(external(tmp_path, url)) == []


async def test_a_database_without_the_migrations(postgres, tmp_path) -> None:
    with postgres.fresh_database(template="template0") as url:
        settings = external(tmp_path, url)
        assert set(await findings_of(settings)) == UNAVAILABLE | {"migrations-pending"}


async def test_a_database_of_a_newer_release_with_overdue_orders(postgres, tmp_path) -> None:
    with postgres.fresh_database() as url:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("insert into schema_migrations (version) values ('29990101000000')")
            connection.execute("select pg_catalog.set_config('session_replication_role', 'replica', false)")
            connection.execute(
                "insert into orders (order_id, temporal_cluster_id, temporal_namespace, workflow_run_id,"
                " fingerprint, address, items, amount_cents,"
                " payment_id, review, requested_at, accepted_at, deadline_at, limit_at, review_until,"
                " last_event_at)"
                " select 'late-' || n, 'c', 'default', 'r', 'f', '{}', '[]', 1, 'p' || n, 'auto', now(),"
                " now(), now() - interval '1 minute', now(), now(), now() from generate_series(1, 4) n"
            )
            connection.execute("insert into step_attempts values ('late-2', 'refund', 99, now(), 'worker-1')")
        found = await findings_of(external(tmp_path, url))
    assert set(found) == UNAVAILABLE | {"migrations-unknown", "orders-overdue", "compensation-repeated"}
    assert found["orders-overdue"].startswith("4 orders")
    assert "late-2" in found["compensation-repeated"]


async def test_a_fault_profile_that_an_ended_load_test_left(postgres, tmp_path) -> None:
    with postgres.fresh_database() as url:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("insert into fault_changes (profile, seed, rates) values ('slow', 1, '{}')")
            connection.execute(
                "insert into runs (run_id, scenario, options, ended_at) select 'run-1', 'mixed',"
                " jsonb_build_object('faults_since',"
                """ to_char(at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')), now()"""
                " from fault_changes"
            )
        found = await findings_of(external(tmp_path, url))
    assert set(found) == UNAVAILABLE | {"faults-left"}
    assert "run-1" in found["faults-left"]


async def test_a_hanging_database_is_unavailable(postgres, tmp_path) -> None:
    with postgres.fresh_database() as url:
        os.kill(postgres.process.pid, signal.SIGSTOP)
        try:
            found = await findings_of(external(tmp_path, url))
        finally:
            os.kill(postgres.process.pid, signal.SIGCONT)
        assert set(found) == UNAVAILABLE | {"database-unavailable"}


async def test_a_slow_database(postgres, tmp_path) -> None:
    """A function that the doctor's first statement calls sleeps."""
    with postgres.fresh_database() as url:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("create schema slow")
            connection.execute(
                "create function slow.to_regclass(text) returns regclass language sql as"
                " 'select pg_sleep(0.3); select pg_catalog.to_regclass($1)'"
            )
            name = connection.info.dbname
            connection.execute(f"alter database {name} set search_path = slow, pg_catalog, public".encode())
        found = await findings_of(external(tmp_path, url))
    assert set(found) == UNAVAILABLE | {"database-slow"}


async def test_an_idle_transaction_and_a_long_statement(postgres, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(database, "LONG_IDLE_SECONDS", 2.0)
    monkeypatch.setattr(database, "LONG_STATEMENT_SECONDS", 2.0)
    with (
        postgres.fresh_database() as url,
        psycopg.connect(url, application_name="idler") as idler,
        psycopg.connect(url, application_name="sleeper") as sleeper,
    ):
        idler.execute("select count(*) from orders")
        sleeping = asyncio.create_task(asyncio.to_thread(sleeper.execute, "select pg_sleep(60)"))
        settings = external(tmp_path, url)
        await until(settings, "database-idle-transaction", "(idler) has been idle in a transaction")
        await until(settings, "database-long-statement", "select pg_sleep(60)")
        sleeper.cancel_safe()
        with pytest.raises(psycopg.errors.QueryCanceled):
            await sleeping


async def test_a_database_with_few_free_connections(postgres, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(database, "CONNECTIONS_SHARE", 0.1)
    with postgres.fresh_database() as url, ExitStack() as connections:
        first = connections.enter_context(psycopg.connect(url))
        (most,) = first.execute("select current_setting('max_connections')::int").fetchone()
        for _ in range(most // 10):
            connections.enter_context(psycopg.connect(url))
        found = await findings_of(external(tmp_path, url))
    assert set(found) == UNAVAILABLE | {"database-connections"}
    assert f"of PostgreSQL's {most} connections" in found["database-connections"]


async def test_orders_that_reach_the_database_long_after_acceptance(postgres, tmp_path) -> None:
    """The same effect has a Temporal clock that is behind the database's."""
    with postgres.fresh_database() as url:
        async with Database(url) as pool:
            driver = OrderDriver(OrderRepository(pool, "worker-1", TEMPORAL), pool)
            await driver.open(accepted_at=datetime.now(UTC) - timedelta(seconds=8))
        found = await findings_of(external(tmp_path, url))
    assert set(found) == UNAVAILABLE | {"clock-acceptance"}
