"""Every finding of the doctor, each from a healthy system with one fault."""

import errno
import os
import re
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from temporalio.service import RPCError, RPCStatusCode

from db.maintenance.diagnostics import DatabaseState, Session
from orchestrator.embedded import RunningProcess, preflight
from orchestrator.embedded.component import ListeningPort
from orchestrator.operations.doctor import Finding, machine, temporal
from orchestrator.operations.doctor.database import database_findings
from orchestrator.settings import Settings
from orchestrator.startup import configuration
from orchestrator.startup import temporal as startup
from orchestrator.startup.findings import clock_findings
from tests.docs.pages import DOCS, first_column, section
from tests.ports import free_port_base

GB = 1_000_000_000
SETTINGS = Settings(orders_home=Path("/srv/orders"), database_url=None, temporal_address=None)
API_PORT = ListeningPort(8000, "the API", "API_PORT")
FREE_PORT = ListeningPort(free_port_base(), "the API", "API_PORT")
SAME_PORT = replace(FREE_PORT, purpose="Locust")

HEALTHY_DATABASE = DatabaseState(
    version=180004,
    version_text="18.4",
    response_ms=1.0,
    connections=20,
    hidden_connections=0,
    max_connections=100,
    acceptance_gap_seconds=0.01,
)


def stack(*, runs: bool = True, restarts: int = 0) -> Iterable[Finding]:
    process = RunningProcess(
        "order-worker-1", os.getpid() if runs else 0, "RUNNING" if runs else "FATAL", datetime.now(UTC)
    )
    times = [datetime.now(UTC)] * restarts + [datetime.now(UTC) - timedelta(minutes=11)] * 5
    running: Any = SimpleNamespace(processes=lambda: [process], restarted_at=lambda _: times)
    # At once: these times are old when the last test runs.
    return list(machine.stack_findings(running, SETTINGS, is_up=True))


def stopped_stack(*, has_died: bool = False) -> Iterable[Finding]:
    stopped: Any = SimpleNamespace(has_died=lambda: has_died)
    return machine.stack_findings(stopped, SETTINGS, is_up=False)


def disk(free_bytes: int, total_bytes: int) -> Iterable[Finding]:
    return machine.disk_findings(Path("/srv"), free_bytes, total_bytes)


def database(**changes: Any) -> Iterable[Finding]:
    return database_findings(replace(HEALTHY_DATABASE, **changes), is_embedded=True)


def session(**changes: Any) -> Iterable[Finding]:
    return database(sessions=(replace(Session(7, "report", 100.0, "select 1"), **changes),))


def versions(**changes: Any) -> Iterable[Finding]:
    healthy: dict[str, Any] = {
        "builds": ["a1"],
        "idle_builds": [],
        "current_build": "a1",
        "unserved_queues": [],
    }
    return temporal.version_findings("orders", **healthy | changes)


def configured(**changes: Any) -> Iterable[Finding]:
    return configuration.configuration_findings(Settings(**changes))


def gateways(**changes: Any) -> Iterable[Finding]:
    chosen = {"payment_gateway": None, "warehouse_gateway": None, "carrier_gateway": None}
    return configuration.gateway_findings(Settings(**chosen | changes))


CASES: list[tuple[str, Iterable[Finding], str]] = [
    ("stack-down", stopped_stack(), "/srv/orders"),
    ("stack-died", stopped_stack(has_died=True), "killed"),
    ("component-down", stack(runs=False), "order-worker-1 is not running (fatal)"),
    ("component-restarting", stack(restarts=3), "3 times"),
    ("disk-full", disk(GB // 2, 4 * GB), "0.5 GB"),
    ("disk-full", disk(4 * GB, 100 * GB), "4.0 GB"),
    ("database-old", database(version=140013, version_text="14.13"), "14.13"),
    ("migrations-pending", database(pending_migrations=("20261124_x.sql",)), "20261124_x.sql"),
    ("migrations-unknown", database(unknown_migrations=("29991231",)), "29991231"),
    ("database-connections", database(connections=81), "81 of"),
    ("database-slow", database(response_ms=900.0), "900 ms"),
    ("database-locked", session(seconds=3.0, waits_for_lock=True), "waiting 3 s"),
    ("database-idle-transaction", session(is_idle=True), "in a transaction for 100 s"),
    ("database-long-statement", session(), "100 s: select 1"),
    ("temporal-old", startup.version_findings("1.24.2"), "1.24.2"),
    ("search-attribute-missing", startup.search_attribute_findings("orders"), "attribute OrderRunId"),
    ("namespace-missing", startup.namespace_findings("orders"), "no namespace orders"),
    ("task-queues-equal", configured(order_task_queue="o", shipping_task_queue="o"), "are both o"),
    ("task-queues-equal", configured(order_task_queue="o", shipping_task_queue="o-compensation"), "o-comp"),
    ("task-queue-reserved", configured(order_task_queue="orders-clock"), "ORDER_TASK_QUEUE is orders-clock"),
    (
        "task-queue-reserved",
        configured(order_task_queue="temporal-sys-x"),
        "ORDER_TASK_QUEUE is temporal-sys",
    ),
    ("task-queue-reserved", configured(shipping_task_queue="/_sys/x"), "SHIPPING_TASK_QUEUE is /_sys/x"),
    ("limit-too-short", configured(order_deadline_seconds=1.5), "ORDER_DEADLINE_SECONDS (1.5)"),
    ("review-too-long", configured(auto_review_seconds=9.0), "AUTO_REVIEW_SECONDS (9)"),
    ("review-too-long", configured(order_deadline_seconds=5.0, auto_review_seconds=1.0), "less than 1.0 s"),
    ("gateways", gateways(database_url="postgresql://h/orders"), "PAYMENT_GATEWAY is not set"),
    ("gateways", gateways(carrier_gateway="dhl"), "Choose one of: http, simulated, stripe"),
    ("needs-too-long", gateways(warehouse_calls="need=5"), "need 16.05 s"),
    ("port-set-twice", preflight.port_findings([FREE_PORT, SAME_PORT]), "for Locust"),
    ("address-unknown", preflight.port_findings([replace(FREE_PORT, address="192.0.2.1")]), "192.0.2.1"),
    ("temporal-addresses-differ", configured(temporal_address="a:1", temporal_host="b"), "say b:7233"),
    ("queue-without-workers", temporal.queue_findings("order-tq", False, 0, 0.0), "order-tq"),
    ("queue-backlog", temporal.queue_findings("order-tq", True, 40, 9.0), "40 tasks are waiting"),
    ("no-current-version", versions(current_build=None, idle_builds=["a1"]), "version a1 are running"),
    ("current-version-incomplete", versions(unserved_queues=["shipping-tq"]), "has served shipping-tq"),
    ("several-versions", versions(builds=["a1", "b2"]), "a1, b2"),
    ("orders-overdue", database(overdue=2, overdue_examples=("o-1", "o-2")), "o-1, o-2"),
    ("faults-left", database(faults_left=("slow", "run-1")), "profile slow is still active. Load test run-1"),
    ("compensation-repeated", database(repeated_compensations=("o-3",)), "o-3"),
    ("clock-database", database(clock_ahead_seconds=-3.0), "3.0 s behind"),
    ("clock-temporal", clock_findings("clock-temporal", "Temporal's clock", 4.0), "4.0 s ahead of"),
    ("clock-acceptance", database(acceptance_gap_seconds=30.0), "30 s"),
]
NOTICES = {"several-versions"}


@pytest.mark.parametrize(("key", "findings", "words"), CASES, ids=[key for key, _, _ in CASES])
def test_one_fault_gives_exactly_one_finding(key, findings, words):
    (found,) = findings
    assert found.key == key
    assert words in found.message
    assert found.advice.endswith(".")
    assert found.severity == ("notice" if key in NOTICES else "problem")


@pytest.mark.parametrize(
    "findings",
    [
        stack(restarts=2),
        session(seconds=29.0),
        session(seconds=59.0, is_idle=True),
        session(seconds=1.9, waits_for_lock=True),
        database(clock_ahead_seconds=0.9),
        disk(30 * GB, 1000 * GB),
        temporal.queue_findings("order-tq", True, 40, 1.0),
        startup.version_findings("1.30.0-rc.1"),
        startup.version_findings(""),
        configured(),
        configured(auto_review_seconds=8.9),
        configured(temporal_address="a:7233", temporal_host="a"),
        configured(order_deadline_seconds=2.0, auto_review_seconds=0.2),
        configured(order_deadline_seconds=5.0),
        versions(),
    ],
)
def test_a_value_just_below_its_threshold_is_not_a_finding(findings):
    assert list(findings) == []


@pytest.mark.parametrize("status", [RPCStatusCode.PERMISSION_DENIED, RPCStatusCode.UNAUTHENTICATED])
async def test_credentials_that_temporal_rejects(status: RPCStatusCode) -> None:
    async def reject(*_: object, **__: object) -> None:
        raise RPCError("Request unauthorized.", status, b"")

    service = SimpleNamespace(get_system_info=reject)
    client: Any = SimpleNamespace(namespace="orders", workflow_service=service)
    (found,) = await startup.check_temporal(client)
    assert found.key == "temporal-credentials"
    assert "namespace orders: Request unauthorized." in found.message


@pytest.mark.parametrize(("is_up", "is_listening"), [(True, False), (False, True)])
def test_ports_must_be_open_while_the_stack_is_up_and_free_otherwise(is_up, is_listening, monkeypatch):
    monkeypatch.setattr(preflight, "listening_process", lambda _: "process 7 (nginx)")
    monkeypatch.setattr(machine, "has_listener", lambda _: is_listening)
    in_use = OSError(errno.EADDRINUSE, "in use") if is_listening else None
    monkeypatch.setattr(preflight, "_bind_error", lambda _: in_use)
    (found,) = machine.port_findings([API_PORT], is_up)
    assert found.key == ("port-closed" if is_up else "port-taken")
    assert is_up or "in use by process 7 (nginx)" in found.message
    assert list(machine.port_findings([API_PORT], not is_up)) == []


def test_a_port_that_only_root_may_use(monkeypatch):
    monkeypatch.setattr(preflight, "_bind_error", lambda _: PermissionError())
    (found,) = preflight.port_findings([FREE_PORT])
    assert (found.key, "reserved for root" in found.message) == ("port-reserved", True)


def test_the_advice_for_an_external_database_does_not_mention_the_stack():
    state = replace(HEALTHY_DATABASE, pending_migrations=("20261124_x.sql",))
    (external,) = database_findings(state, is_embedded=False)
    assert "orders migrate" in external.advice
    (embedded,) = database_findings(state, is_embedded=True)
    assert "make up" in embedded.advice


def keys_in(files: Iterable[Path]) -> set[str]:
    source = "".join(file.read_text() for file in files)
    return set(re.findall(r'(?:Finding|clock_findings)\(\s*"([a-z-]+)"', source))


def all_keys() -> set[str]:
    folders = (Path(machine.__file__).parent, Path(configuration.__file__).parent)
    return keys_in([Path(preflight.__file__), *(file for folder in folders for file in folder.glob("*.py"))])


def test_every_finding_is_tested_against_real_servers():
    tests = Path(__file__).parents[1] / "integration"
    files = ("test_doctor.py", "test_ownership.py", "test_versions.py")
    tested = "".join((tests / name).read_text() for name in files)
    without_servers = keys_in([Path(configuration.__file__), Path(preflight.__file__)]) - {"port-taken"}
    # The development server accepts all credentials.
    without_servers.add("temporal-credentials")
    assert {key for key in all_keys() - without_servers if f'"{key}"' not in tested} == set()


def test_every_finding_is_documented():
    documented = first_column(section(DOCS / "how-to" / "diagnose-problems.md", "## What the doctor checks"))
    assert len(documented) == len(set(documented))
    assert set(documented) == all_keys()
