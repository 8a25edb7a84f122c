"""The services of docker-compose.yml as processes: orders, a distributed load test, audit, shutdown."""

import asyncio
import json
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from orchestrator.embedded import temporal
from orchestrator.settings import Settings
from tests.deployment.processes import Container, Host
from tests.live import LiveApi, eventually
from tests.servers import PostgresServer
from tests.temporal_server import is_ready

pytestmark = pytest.mark.stack

REPLICAS = 2
RUN_ID = "distributed"


@pytest.fixture(scope="module")
def temporal_over_tcp(host: Host) -> Iterator[Settings]:
    """The development server, without the namespace of the deployment."""
    home = host.home / "temporal-server"
    home.mkdir()
    settings = Settings(
        orders_home=home,
        temporal_address=None,
        temporal_port=host.ports.temporal,
        temporal_ui_port=host.ports.temporal_ui,
        temporal_http_port=host.ports.temporal_http,
        temporal_metrics_port=host.ports.temporal_metrics,
    )
    with (home / "log").open("wb") as log:
        process = subprocess.Popen(temporal.server_command(settings), stdout=log, stderr=log, cwd=home)
    try:
        eventually(lambda: asyncio.run(is_ready(settings)), 30)
        yield settings
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture(scope="module")
def key(host: Host) -> str:
    """The first API key. The jobs store it and the key of the load generators; they can be repeated."""
    for job in ("api-key", "load-test-key", "api-key"):
        done = host.run(job)
        assert done.returncode == 0, done.stdout
    return host.secrets["API_KEY"]


@pytest.mark.parametrize("name", ["api", "dashboard", "locust-master", "order-worker"])
def test_no_service_listens_before_there_is_a_key(host: Host, name: str) -> None:
    """Runs before the fixture `key`."""
    refused = host.run(name, BIND_ADDRESS="0.0.0.0")
    assert (refused.returncode, "without API keys" in refused.stdout) == (2, True), refused.stdout


@pytest.fixture(scope="module")
def deployed(host: Host, temporal_over_tcp: Settings, key: str) -> Iterator[dict[str, list[Container]]]:
    """Our services except jobs, started in the order of their dependencies, all healthy."""
    done = host.run("temporal-namespace")
    assert done.returncode == 0, done.stdout
    started: dict[str, list[Container]] = {}
    for service in host.in_order_of_start():
        for name, wanted in service.definition["depends_on"].items():
            if wanted["condition"] == "service_healthy":
                for container in started[name]:
                    container.wait_until_healthy()
        started[service.name] = [host.start(service.name, number + 1) for number in range(service.replicas)]
    for containers in started.values():
        for container in containers:
            container.wait_until_healthy()
    yield started
    host.stop_all()


@pytest.fixture(scope="module")
def api(host: Host, deployed: dict[str, list[Container]], key: str) -> Iterator[LiveApi]:
    with LiveApi(f"http://127.0.0.1:{host.ports.api}") as api:
        api.http.headers["Authorization"] = f"Bearer {key}"
        yield api


def test_a_key_is_required(host: Host, deployed: dict[str, list[Container]]) -> None:
    for port, path in (
        (host.ports.api, "/orders"),
        (host.ports.dashboard, "/orders"),
        (host.ports.locust, "/verdict.json"),
    ):
        assert httpx.get(f"http://127.0.0.1:{port}{path}", trust_env=False).status_code == 401


def test_all_replicas_run(deployed: dict[str, list[Container]]) -> None:
    assert {name: len(containers) for name, containers in deployed.items()} == {
        "order-worker": REPLICAS,
        "shipping-worker": REPLICAS,
        "api": 1,
        "dashboard": 1,
        "locust-master": 1,
        "locust-worker": REPLICAS,
    }


def test_orders_complete(api: LiveApi) -> None:
    orders = [api.start() for _ in range(5)]
    for order in orders:
        status = api.finished(order)
        assert (status["status"], status["within_limit"]) == ("completed", True)


def test_each_service_connects_as_its_own_database_user(
    deployed: dict[str, list[Container]], postgres: PostgresServer
) -> None:
    with psycopg.connect(postgres.url("orders")) as superuser:
        rows = superuser.execute(
            "select usename::text, array_agg(distinct application_name) from pg_stat_activity"
            " where client_addr is not null group by 1"
        ).fetchall()
    seen = {user: set(names) for user, names in rows}
    # These two connect only when they are used.
    assert seen.pop("orders_loadtest", {"loadtest"}) == {"loadtest"}
    assert seen.pop("orders_reader", {"dashboard"}) == {"dashboard"}
    assert seen.keys() == {"orders_writer", "orders_api"}
    assert seen["orders_api"] == {"api", "api-reports"}
    # Every worker has its own name.
    assert len(seen["orders_writer"]) == 2 * REPLICAS


def test_a_distributed_load_test_from_its_page(
    host: Host, deployed: dict[str, list[Container]], key: str
) -> None:
    page = httpx.Client(
        base_url=f"http://127.0.0.1:{host.ports.locust}", trust_env=False, timeout=30, auth=("tests", key)
    )
    with page:
        eventually(lambda: len(page.get("/stats/requests").json()["workers"]) == REPLICAS)
        form = {
            "user_count": "1", "spawn_rate": "1", "scenario": "mixed", "rate": "3", "duration": "8s",
            "faults": "assignment", "run_id": RUN_ID, "slo_target": "0.5",
        }  # fmt: skip
        response = page.post("/swarm", data=form).json()
        assert response["success"], response
        verdict: dict[str, Any] = eventually(lambda: page.get("/verdict.json").json()["verdict"], 60)
    assert (verdict["exit_code"], verdict["verdict"]) == (0, "passed")
    assert verdict["run_id"] == RUN_ID
    reports = host.reports / "reports" / RUN_ID
    assert json.loads((reports / "verdict.json").read_text())["exit_code"] == 0


def test_the_audit_finds_no_violation(host: Host, api: LiveApi, key: str) -> None:
    done = host.run("dashboard", "python", "-m", "orchestrator", "audit", API_KEY=key)
    assert done.returncode == 0, done.stdout


def test_the_doctor_finds_no_problem(host: Host, api: LiveApi) -> None:
    done = host.run("api", "python", "-m", "orchestrator", "doctor", "--json")
    findings = json.loads(done.stdout)["findings"]
    # Except the disk of this machine.
    assert [each for each in findings if not each["key"].startswith("disk")] == [], done.stdout


def test_a_paused_worker_is_not_healthy(deployed: dict[str, list[Container]]) -> None:
    container = deployed["shipping-worker"][0]
    file = Path(container.environment["LIVENESS_FILE"])
    assert time.time() - file.stat().st_mtime < 10
    container.pause()
    try:
        eventually(lambda: not container.is_healthy(), 30)
    finally:
        container.resume()
    container.wait_until_healthy()


def test_no_file_of_the_image_changes(host: Host, deployed: dict[str, list[Container]]) -> None:
    assert host.files_of_image() == host.image_files


def test_every_service_stops_cleanly(host: Host, deployed: dict[str, list[Container]]) -> None:
    for containers in reversed(deployed.values()):
        for container in containers:
            # Streamlit exits by the signal after its shutdown.
            clean = {0, -signal.SIGTERM} if container.service.name == "dashboard" else {0}
            assert container.stop() in clean, container.log.read_text()[-3_000:]


def test_no_log_contains_a_secret(host: Host, deployed: dict[str, list[Container]]) -> None:
    for container in host.running:
        text = container.log.read_text()
        assert not [name for name in host.secrets if host.secrets[name] in text], container.service.name
