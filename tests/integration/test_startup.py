"""Start-up checks: a process refuses a system that does not fit, and waits while a server is unavailable."""

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psycopg
import pytest
from google.protobuf.duration_pb2 import Duration
from temporalio.api.workflowservice.v1 import RegisterNamespaceRequest
from temporalio.client import Client

from db import api_keys
from orchestrator.embedded import Stack, Stage, components
from orchestrator.embedded.layout import PROJECT_ROOT
from orchestrator.security.key_hashing import hash_key, new_key
from orchestrator.startup.servers import check_servers, run_check
from tests.live import eventually
from tests.ports import free_port_base
from tests.servers import PostgresServer
from tests.stacks import FOREIGN_VARIABLES, stack_settings, temporary_home
from tests.temporal_server import temporal_server

NO_SERVER = "127.0.0.1:1"

COMPONENTS = {
    "worker": ("orchestrator.processes", "worker", "all"),
    "api": ("orchestrator.processes", "api"),
    "dashboard": ("dashboard",),
    "migrate": ("orchestrator", "migrate"),
    "up": ("orchestrator", "up"),
}
SERVING = ("worker", "api")

PATCHED = """
import runpy, sys, time
real_time = time.time
from orchestrator import startup
{patch}
sys.argv = sys.argv[1:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""
"""Runs a module after a change of the program, which stands for a server that does not fit."""

# Much more than a response can take, which is subtracted.
CLOCK_AHEAD = "time.time = lambda: real_time() + 10"
CLOCK_BEHIND = "time.time = lambda: real_time() - 10"


@pytest.fixture(scope="module")
def temporal() -> Iterator[str]:
    with temporal_server() as settings:
        yield settings.temporal_target


@pytest.fixture
def url(postgres: PostgresServer) -> Iterator[str]:
    with postgres.fresh_database() as fresh:
        yield fresh


@contextmanager
def started(
    component: str, home: Path, patch: str = "", **environment: str
) -> Iterator[subprocess.Popen[str]]:
    """Start a component whose output goes to `home`/log."""
    with (home / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", PATCHED.format(patch=patch), *COMPONENTS[component]],
            cwd=PROJECT_ROOT,
            env=os.environ
            | {"ORDERS_HOME": str(home), "PORT_BASE": str(free_port_base()), "TEMPORAL_ADDRESS": NO_SERVER}
            | environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            text=True,
        )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(20)


def refusal(component: str, home: Path, patch: str = "", **environment: str) -> str:
    """Return the last line of a component that exits with code 2."""
    with started(component, home, patch, **environment) as process:
        code = process.wait(60)
    output = (home / "log").read_text()
    assert code == 2, output
    assert "Traceback" not in output
    return output.splitlines()[-1]


def log_of(home: Path) -> str:
    return (home / "log").read_text()


@pytest.mark.parametrize("component", ["worker", "api", "dashboard", "up"])
def test_equal_task_queues_are_refused(component: str, tmp_path: Path) -> None:
    queues = {"ORDER_TASK_QUEUE": "orders", "SHIPPING_TASK_QUEUE": "orders "}
    assert refusal(component, tmp_path, **queues) == (
        "ORDER_TASK_QUEUE and SHIPPING_TASK_QUEUE are both orders: order workers would receive tasks that "
        "only shipping workers can process. Set them to different names."
    )
    assert not (tmp_path / "postgres").exists()


@pytest.mark.parametrize("component", ["worker", "migrate"])
def test_a_database_server_that_is_too_old_is_refused(component: str, url: str, tmp_path: Path) -> None:
    patch = "from orchestrator.startup import database; database.MIN_SERVER_VERSION = 990000"
    assert "99 or newer is required" in refusal(component, tmp_path, patch, DATABASE_URL=url)


@pytest.mark.parametrize("component", SERVING)
def test_a_database_without_the_migrations_is_refused(
    component: str, postgres: PostgresServer, tmp_path: Path
) -> None:
    with postgres.fresh_database(template="template0") as empty:
        assert "Apply them as the owner" in refusal(component, tmp_path, DATABASE_URL=empty)


@pytest.mark.parametrize("component", ["api", "migrate"])
def test_the_schema_of_a_newer_release_is_refused(component: str, url: str, tmp_path: Path) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("insert into schema_migrations (version) values ('29990101000000')")
    assert "29990101000000. Run that release." in refusal(component, tmp_path, DATABASE_URL=url)


def test_an_unknown_database_is_refused(url: str, tmp_path: Path) -> None:
    message = refusal("worker", tmp_path, DATABASE_URL=url.replace("/test_", "/no_"))
    assert "does not exist" in message


@pytest.mark.parametrize(
    ("component", "patch", "direction"),
    [("worker", CLOCK_AHEAD, "behind"), ("api", CLOCK_BEHIND, "ahead of")],
)
def test_a_clock_that_differs_from_the_databases_is_refused(
    component: str, patch: str, direction: str, url: str, tmp_path: Path
) -> None:
    message = refusal(component, tmp_path, patch, DATABASE_URL=url)
    assert re.search(rf"The database's clock is (9|10)\.\d s {direction} this machine's\.", message)


@pytest.mark.parametrize(("component", "patch"), [("worker", CLOCK_BEHIND), ("api", CLOCK_AHEAD)])
def test_a_clock_that_differs_from_temporals_is_refused(
    component: str, patch: str, url: str, temporal: str, tmp_path: Path
) -> None:
    patch += "; import orchestrator.startup.temporal, db.maintenance.diagnostics as database"
    patch += "; database.clock_ahead = lambda *_: 0.0"
    message = refusal(component, tmp_path, patch, DATABASE_URL=url, TEMPORAL_ADDRESS=temporal)
    assert re.search(r"Temporal's clock is (9|10)\.\d s", message)


@pytest.mark.parametrize("component", SERVING)
def test_a_missing_namespace_is_refused(component: str, url: str, temporal: str, tmp_path: Path) -> None:
    patch = "from orchestrator.startup import servers; servers.NAMESPACE_SECONDS = 0.5"
    servers = {"DATABASE_URL": url, "TEMPORAL_ADDRESS": temporal, "TEMPORAL_NAMESPACE": "nowhere"}
    assert "has no namespace nowhere" in refusal(component, tmp_path, patch, **servers)
    assert "waiting for Temporal" in log_of(tmp_path)


async def test_a_namespace_without_the_search_attribute_is_refused(
    url: str, temporal: str, tmp_path: Path
) -> None:
    client = await Client.connect(temporal)
    retention = Duration(seconds=86_400)
    await client.workflow_service.register_namespace(
        RegisterNamespaceRequest(namespace="bare", workflow_execution_retention_period=retention)
    )
    servers = {"DATABASE_URL": url, "TEMPORAL_ADDRESS": temporal, "TEMPORAL_NAMESPACE": "bare"}
    assert await asyncio.to_thread(refusal, "worker", tmp_path, **servers) == (
        "The Temporal namespace bare has no search attribute OrderRunId of type Keyword. Create it: "
        "temporal operator search-attribute create --namespace bare --name OrderRunId --type Keyword."
    )


def test_a_temporal_server_that_is_too_old_is_refused(url: str, temporal: str, tmp_path: Path) -> None:
    patch = "from orchestrator.startup import temporal; temporal.MIN_TEMPORAL = (99, 0)"
    message = refusal("worker", tmp_path, patch, DATABASE_URL=url, TEMPORAL_ADDRESS=temporal)
    assert "99.0 or newer is required" in message


def test_variables_and_files_of_other_programs_do_not_affect_the_embedded_servers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / ".config" / "temporalio" / "temporal.yaml"
    config.parent.mkdir(parents=True)
    config.write_text("not: [yaml")
    (tmp_path / ".env").write_text("DBMATE_MIGRATIONS_TABLE=other\nDBMATE_DRIVER=mysql\n")
    monkeypatch.chdir(tmp_path)
    for name, value in (FOREIGN_VARIABLES | {"HOME": str(tmp_path)}).items():
        monkeypatch.setenv(name, value)
    with temporary_home("orders-servers-") as home:
        settings = stack_settings(home)
        servers = [each for each in components.components(settings) if each.stage is Stage.SERVERS]
        Stack(settings, servers).up(bound=True)
        assert run_check(check_servers(settings)) == []


@pytest.fixture
def later(url: str, postgres: PostgresServer, tmp_path: Path) -> str:
    """The URL of a database that is unavailable until `make_available`."""
    return url.replace(str(postgres.socket_dir), str(tmp_path / "sockets"))


def make_available(postgres: PostgresServer, home: Path) -> None:
    (home / "sockets").symlink_to(postgres.socket_dir)


def test_a_worker_beyond_loopback_waits_for_the_database(
    postgres: PostgresServer, url: str, later: str, temporal: str, tmp_path: Path
) -> None:
    """Its metrics have no authentication, so it opens their port when it knows that keys exist."""
    api_keys.add(url, hash_key(new_key()), "ada", "viewer")
    with started(
        "worker", tmp_path, DATABASE_URL=later, TEMPORAL_ADDRESS=temporal, BIND_ADDRESS="0.0.0.0"
    ) as worker:
        eventually(lambda: log_of(tmp_path).count("waiting for PostgreSQL") >= 2)
        assert "metrics served" not in log_of(tmp_path)
        make_available(postgres, tmp_path)
        eventually(lambda: "worker started" in log_of(tmp_path))
        assert worker.poll() is None
        assert "metrics served" in log_of(tmp_path)


def test_a_worker_touches_its_liveness_file_while_it_waits(later: str, tmp_path: Path) -> None:
    alive = tmp_path / "alive"
    with started("worker", tmp_path, DATABASE_URL=later, LIVENESS_FILE=str(alive)):
        eventually(alive.exists)


@pytest.mark.parametrize(("component", "path"), [("api", "/health"), ("dashboard", "/_stcore/health")])
def test_a_page_beyond_loopback_requires_a_key_while_the_database_is_unavailable(
    component: str, path: str, later: str, tmp_path: Path
) -> None:
    config = tmp_path / ".streamlit" / "config.toml"
    config.parent.mkdir()
    config.write_text("[server]\nsslCertFile = '/nowhere'\nsslKeyFile = '/nowhere'\n")
    port = free_port_base()
    address = f"http://127.0.0.1:{port + (component == 'dashboard')}"
    with (
        started(
            component,
            tmp_path,
            DATABASE_URL=later,
            BIND_ADDRESS="0.0.0.0",
            PORT_BASE=str(port),
            # With a configuration of Streamlit for other apps.
            HOME=str(tmp_path),
        ),
        httpx.Client(base_url=address, trust_env=False) as http,
    ):
        eventually(lambda: responds(http, path), 30)
        assert http.get("/orders").status_code in (401, 503)


def test_a_master_of_load_tests_beyond_loopback_waits_for_the_database(
    postgres: PostgresServer, url: str, later: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    api_keys.add(url, hash_key(new_key()), "ada", "viewer")
    port = free_port_base()
    words = ("locust", "-f", "loadtest/locustfile.py", "--master", f"--master-bind-port={port + 9}")
    monkeypatch.setitem(COMPONENTS, "master", words)
    address = f"http://127.0.0.1:{port + 2}"
    with (
        started("master", tmp_path, DATABASE_URL=later, BIND_ADDRESS="0.0.0.0", PORT_BASE=str(port)),
        httpx.Client(base_url=address, trust_env=False) as http,
    ):
        eventually(lambda: "waiting for PostgreSQL" in log_of(tmp_path))
        make_available(postgres, tmp_path)
        eventually(lambda: responds(http, "/alive"))


def responds(http: httpx.Client, path: str) -> bool:
    try:
        http.get(path)
    except httpx.TransportError:
        return False
    return True


def test_the_api_ends_when_a_check_fails_after_an_outage(
    postgres: PostgresServer, url: str, later: str, tmp_path: Path
) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("insert into schema_migrations (version) values ('29990101000000')")
    with started("api", tmp_path, DATABASE_URL=later) as api:
        eventually(lambda: "waiting for PostgreSQL" in log_of(tmp_path))
        make_available(postgres, tmp_path)
        assert api.wait(20) == 2
    assert log_of(tmp_path).splitlines()[-1].endswith("Run that release.")
