"""The doctor against real servers: what is well, and every trouble once, for its probe to meet.

What takes long to make, like a full disk or an hour of waiting, is met early: the threshold is lowered.
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
from psycopg.conninfo import make_conninfo
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import PollWorkflowTaskQueueRequest

from db.database import Database
from db.orders import OrderRepository
from orchestrator.embedded import Stack
from orchestrator.embedded.layout import Layout
from orchestrator.operations.doctor import diagnose, findings, take
from orchestrator.settings import Settings
from orchestrator.temporal_client import connect
from tests.command_line import CommandLine
from tests.live import eventually
from tests.orders import Clerk
from tests.ports import free_port_base

NOWHERE = "postgresql://nobody@127.0.0.1:1/orders"
NO_TEMPORAL = "127.0.0.1:1"
NO_API = "http://127.0.0.1:1"
AWAY = {"temporal-away", "api-silent"}
"""What is found of servers elsewhere in any case."""

LOOK_SECONDS = 5.0
CLOCK_OFF_SECONDS = 120.0
"""Temporal's clock shows in the last poll, which may be a minute old."""


def elsewhere(home: Path, url: str, **others: Any) -> Settings:
    """Servers of somebody else, of which Temporal is away; no stack is needed here, and no API runs."""
    places = {"database_url": url, "temporal_address": NO_TEMPORAL, "given_api_url": NO_API}
    return Settings(orders_home=home, **places | others)


async def looked(settings: Settings, now: Callable[[], float] = time.time) -> dict[str, str]:
    """The findings by key; a look never takes five seconds."""
    began = time.monotonic()
    readings = await take(settings, now)
    assert time.monotonic() - began < LOOK_SECONDS
    found: dict[str, str] = {}
    for finding in diagnose(readings):
        found[finding.key] = f"{found.get(finding.key, '')} {finding.what}".strip()
    return found


async def until(settings: Settings, key: str, words: str = "") -> str:
    """What is found under `key`, as soon as it has these words in it."""

    def look() -> str | None:
        what = asyncio.run(looked(settings)).get(key)
        return what if what is not None and words in what else None

    return str(await asyncio.to_thread(eventually, look))


async def until_well(settings: Settings) -> set[str]:
    """What is left to find. Other tests may have taken parts of the stack away, over and over."""
    bearable = {"component-flapping"}
    await asyncio.to_thread(eventually, lambda: set(asyncio.run(looked(settings))) <= bearable)
    return set(await looked(settings))


@pytest.mark.stack
async def test_a_stack_that_is_well_has_nothing_wrong(live_stack: Stack) -> None:
    left = await until_well(live_stack.settings)
    environment = {
        **os.environ,
        "ORDERS_HOME": str(live_stack.settings.home),
        "PORT_BASE": str(live_stack.settings.port_base),
    }
    code, said = await CommandLine(environment).run("doctor")
    assert (code, "Nothing is wrong" in said, "PostgreSQL 18" in said) == (len(left), not left, True), said
    code, said = await CommandLine(environment).run("doctor", "--json")
    told = json.loads(said)
    assert (code, told["healthy"]) == (len(left), not left)
    assert {finding["key"] for finding in told["findings"]} == left


@pytest.mark.stack
async def test_a_queue_without_workers(live_stack: Stack) -> None:
    live_stack.stop("shipping-worker-1")
    try:
        assert "shipping-tq" in await until(live_stack.settings, "queue-unserved")
        assert "shipping-worker-1" in (await looked(live_stack.settings))["component-down"]
    finally:
        live_stack.start("shipping-worker-1")
    await until_well(live_stack.settings)


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
async def test_a_port_where_nobody_listens_and_a_component_that_is_started_again(
    live_stack: Stack, monkeypatch
) -> None:
    monkeypatch.setattr(findings, "FLAPPING_RESTARTS", 1)
    settings = live_stack.settings
    live_stack.stop("locust")
    try:
        await until(settings, "port-silent", f"port {settings.port('locust')}, which is the load tests'")
    finally:
        live_stack.start("locust")
    live_stack.kill("locust")
    await until(settings, "component-flapping", "locust was started again")
    live_stack.wait_until_healthy(["locust"])


@pytest.mark.stack
async def test_servers_that_are_too_old_and_a_disk_that_is_too_small(live_stack: Stack, monkeypatch) -> None:
    monkeypatch.setattr(findings, "POSTGRES_NEEDED", 990000)
    monkeypatch.setattr(findings, "TEMPORAL_NEEDED", (99, 0))
    monkeypatch.setattr(findings, "DISK_BYTES", 10**18)
    found = await looked(live_stack.settings)
    assert "PostgreSQL is 18" in found["database-old"]
    assert "Temporal server is 1." in found["temporal-old"]
    assert str(live_stack.settings.home) in found["disk-full"]


@pytest.mark.stack
async def test_clocks_that_differ_from_this_machine_s(live_stack: Stack) -> None:
    found = await looked(live_stack.settings, lambda: time.time() - CLOCK_OFF_SECONDS)
    assert "ahead of this machine's" in found["clock-database"]
    assert "ahead of this machine's" in found["clock-temporal"]
    found = await looked(live_stack.settings, lambda: time.time() + CLOCK_OFF_SECONDS)
    assert "behind this machine's" in found["clock-database"]


@pytest.mark.stack
async def test_orders_that_pile_up_since_their_worker_asks_for_no_more(
    live_stack: Stack, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(findings, "BACKLOG_AGE_SECONDS", 0.01)
    queue = "piled-up-tq"
    settings = elsewhere(
        tmp_path,
        live_stack.settings.order_database_url,
        temporal_address=live_stack.settings.temporal_target,
        order_task_queue=queue,
    )
    client = await connect(settings)
    asks = PollWorkflowTaskQueueRequest(
        namespace=client.namespace, task_queue=TaskQueue(name=queue), identity="worker-1"
    )
    with suppress(TimeoutError):
        # It asks once, and then never again.
        async with asyncio.timeout(0.3):
            await client.workflow_service.poll_workflow_task_queue(asks, retry=False)
    waiting = [
        await client.start_workflow("AnyWorkflow", id=f"{queue}-{n}", task_queue=queue) for n in range(3)
    ]
    try:
        await until(settings, "queue-backlog", f"3 tasks wait on task queue {queue}")
    finally:
        for workflow in waiting:
            await workflow.terminate()


async def test_nothing_runs_and_a_port_is_taken(tmp_path) -> None:
    settings = Settings(
        orders_home=tmp_path, port_base=free_port_base(), database_url=None, temporal_address=None
    )
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", settings.port("api")))
        other.listen()
        found = await looked(settings)
    assert set(found) == {"stack-down", "port-taken"}
    assert f"process {os.getpid()}" in found["port-taken"]

    layout = Layout.of(settings)
    layout.control.mkdir()
    layout.sockets.mkdir(exist_ok=True)
    layout.supervisor_socket.touch()
    layout.running_settings.write_text(settings.model_dump_json())
    try:
        assert set(await looked(settings)) == {"stack-died", "leftover"}
    finally:
        shutil.rmtree(layout.sockets)


async def test_servers_elsewhere_that_do_not_answer(tmp_path) -> None:
    assert set(await looked(elsewhere(tmp_path, NOWHERE))) == AWAY | {"database-away"}
    environment = {
        "ORDERS_HOME": str(tmp_path),
        "DATABASE_URL": NOWHERE,
        "TEMPORAL_ADDRESS": NO_TEMPORAL,
        "API_URL": NO_API,
    }
    code, said = await CommandLine({**os.environ, **environment}).run("doctor")
    assert (code, "3 things are wrong" in said) == (1, True), said


async def test_a_profile_of_temporal_that_there_is_none_of(tmp_path) -> None:
    config = tmp_path / "temporal.toml"
    config.write_text("[profile.other]\n")
    wrong = {"temporal_profile": "nowhere", "temporal_config_file": config}
    found = await looked(elsewhere(tmp_path, NOWHERE, **wrong))
    assert set(found) == AWAY | {"database-away"}
    assert "nowhere" in found["temporal-away"]


async def test_another_user_s_sessions_are_counted_and_said_to_be_hidden(postgres, tmp_path) -> None:
    with postgres.fresh_database() as url, psycopg.connect(url):
        settings = elsewhere(tmp_path, make_conninfo(url, user="orders_writer"))
        reading = (await take(settings)).database
        assert reading.why_away is None
        assert reading.connections >= 2
        assert 1 <= reading.hidden_connections < reading.connections
        environment = {"ORDERS_HOME": str(tmp_path), "DATABASE_URL": settings.order_database_url}
        environment |= {"TEMPORAL_ADDRESS": NO_TEMPORAL, "API_URL": NO_API}
        _, said = await CommandLine({**os.environ, **environment}).run("doctor")
        assert "of them are other users'" in said
        owner = (await take(elsewhere(tmp_path, url))).database
        assert owner.hidden_connections == 0


async def test_a_database_without_the_migrations(postgres, tmp_path) -> None:
    with postgres.fresh_database(template="template0") as url:
        settings = elsewhere(tmp_path, url)
        assert set(await looked(settings)) == AWAY | {"migrations-pending"}


async def test_a_database_that_a_newer_release_has_migrated_and_overdue_orders(postgres, tmp_path) -> None:
    with postgres.fresh_database() as url:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("insert into schema_migrations (version) values ('29990101000000')")
            connection.execute("select pg_catalog.set_config('session_replication_role', 'replica', false)")
            connection.execute(
                "insert into orders (order_id, workflow_run_id, fingerprint, address, items, amount_cents,"
                " payment_id, review, requested_at, accepted_at, deadline_at, updated_at)"
                " select 'late-' || n, 'r', 'f', '{}', '[]', 1, 'p' || n, 'auto', now(), now(),"
                " now() - interval '1 minute', now() from generate_series(1, 4) n"
            )
            connection.execute("insert into step_attempts values ('late-2', 'refund', 99, now(), 'worker-1')")
        found = await looked(elsewhere(tmp_path, url))
    assert set(found) == AWAY | {"migrations-unknown", "orders-overdue", "undoing-repeated"}
    assert found["orders-overdue"].startswith("4 orders")
    assert "late-2" in found["undoing-repeated"]


async def test_a_database_that_hangs_is_not_waited_for(postgres, tmp_path) -> None:
    with postgres.fresh_database() as url:
        os.kill(postgres.process.pid, signal.SIGSTOP)
        try:
            found = await looked(elsewhere(tmp_path, url))
        finally:
            os.kill(postgres.process.pid, signal.SIGCONT)
        assert set(found) == AWAY | {"database-away"}


async def test_a_database_that_takes_long_to_answer(postgres, tmp_path) -> None:
    """What the doctor's first statement calls sleeps, as it would on a disk that is too slow."""
    with postgres.fresh_database() as url:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("create schema slow")
            connection.execute(
                "create function slow.to_regclass(text) returns regclass language sql as"
                " 'select pg_sleep(0.2); select pg_catalog.to_regclass($1)'"
            )
            database = connection.info.dbname
            connection.execute(
                f"alter database {database} set search_path = slow, pg_catalog, public".encode()
            )
        found = await looked(elsewhere(tmp_path, url))
    assert set(found) == AWAY | {"database-slow"}


async def test_sessions_that_hold_a_transaction_open_and_that_do_not_come_to_an_end(
    postgres, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(findings, "LONG_IDLE_SECONDS", 2.0)
    monkeypatch.setattr(findings, "LONG_STATEMENT_SECONDS", 2.0)
    with (
        postgres.fresh_database() as url,
        psycopg.connect(url, application_name="idler") as idler,
        psycopg.connect(url, application_name="sleeper") as sleeper,
    ):
        idler.execute("select count(*) from orders")
        sleeping = asyncio.create_task(asyncio.to_thread(sleeper.execute, "select pg_sleep(60)"))
        settings = elsewhere(tmp_path, url)
        await until(settings, "database-idle-transaction", "(idler) has left a transaction open")
        await until(settings, "database-long-statement", "select pg_sleep(60)")
        sleeper.cancel_safe()
        with pytest.raises(psycopg.errors.QueryCanceled):
            await sleeping


async def test_a_database_that_is_short_of_connections(postgres, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(findings, "CONNECTIONS_SHARE", 0.1)
    with postgres.fresh_database() as url, ExitStack() as open_ones:
        first = open_ones.enter_context(psycopg.connect(url))
        (most,) = first.execute("select current_setting('max_connections')::int").fetchone()
        for _ in range(most // 10):
            open_ones.enter_context(psycopg.connect(url))
        found = await looked(elsewhere(tmp_path, url))
    assert set(found) == AWAY | {"database-connections"}
    assert f"of PostgreSQL's {most} connections" in found["database-connections"]


async def test_a_database_without_partitions_for_the_days_to_come(postgres, tmp_path) -> None:
    with postgres.fresh_database() as url:
        with psycopg.connect(url) as connection:
            ahead = connection.execute(
                "select name from event_partitions() where to_at is null or to_at > now()"
            ).fetchall()
            for (name,) in ahead:
                connection.execute(f"drop table {name}".encode())
            connection.execute(
                "create table events_ahead partition of events"
                f" for values from ('{datetime.now(UTC):%Y-%m-%d}Z') to (maxvalue)".encode()
            )
        found = await looked(elsewhere(tmp_path, url))
    assert set(found) == AWAY | {"partitions-missing"}


async def test_orders_that_come_into_the_books_long_after_their_acceptance(postgres, tmp_path) -> None:
    """As they do when Temporal's clock is behind the database's."""
    with postgres.fresh_database() as url:
        async with Database(url) as pool:
            clerk = Clerk(OrderRepository(pool, "worker-1"), pool)
            await clerk.open(accepted_at=datetime.now(UTC) - timedelta(seconds=8))
        found = await looked(elsewhere(tmp_path, url))
    assert set(found) == AWAY | {"clock-acceptance"}
