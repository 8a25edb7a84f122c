"""The doctor's probes against real servers: what is well, and troubles that are cheap to make."""

import asyncio
import json
import os
import shutil
import signal
import socket
import time
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from orchestrator.doctor import diagnose, take
from orchestrator.settings import Settings
from orchestrator.stack import Stack
from orchestrator.stack.layout import Layout
from tests.command_line import CommandLine
from tests.live import eventually
from tests.ports import free_port_base

NOWHERE = "postgresql://nobody@127.0.0.1:1/orders"
NO_TEMPORAL = "127.0.0.1:1"
NO_API = "http://127.0.0.1:1"
AWAY = {"temporal-away", "api-silent"}
"""What is found of servers elsewhere in any case."""

LOOK_SECONDS = 5.0


def elsewhere(home: Path, url: str, **others: Any) -> Settings:
    """Servers of somebody else, of which Temporal is away; no stack is needed here, and no API runs."""
    return Settings(
        orders_home=home, database_url=url, temporal_address=NO_TEMPORAL, given_api_url=NO_API, **others
    )


async def looked(settings: Settings) -> dict[str, str]:
    """The findings by key; a look never takes five seconds."""
    began = time.monotonic()
    readings = await take(settings)
    assert time.monotonic() - began < LOOK_SECONDS
    return {finding.key: finding.what for finding in diagnose(readings)}


async def until(settings: Settings, key: str) -> str:
    return str(await asyncio.to_thread(eventually, lambda: asyncio.run(looked(settings)).get(key)))


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
    url = live_stack.settings.books_url

    def wait_for_it() -> None:
        with psycopg.connect(url, application_name="waiter") as waiter:
            waiter.execute("select pg_advisory_lock(20261124)")

    with psycopg.connect(url) as holder:
        holder.execute("select pg_advisory_lock(20261124)")
        waiting = asyncio.create_task(asyncio.to_thread(wait_for_it))
        assert "(waiter) has been waiting" in await until(live_stack.settings, "database-locked")
    await waiting


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
        environment = {"ORDERS_HOME": str(tmp_path), "DATABASE_URL": settings.books_url}
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
