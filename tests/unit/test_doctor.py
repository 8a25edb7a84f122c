"""Every finding of the doctor, each from the observations of a healthy system with one fault."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from db.maintenance.diagnostics import DatabaseState, Session
from orchestrator.operations.doctor import diagnose, findings
from orchestrator.operations.doctor.observations import (
    DiskSpace,
    Observations,
    PortState,
    ProcessState,
    QueueState,
    StackState,
    TemporalState,
)

GB = 1_000_000_000

HEALTHY = Observations(
    home=Path("/srv/orders"),
    disk=DiskSpace(Path("/srv"), 80 * GB, 100 * GB),
    stack=StackState(True, processes=(ProcessState("order-worker-1", True, "RUNNING"),)),
    ports=(PortState(8000, "the API", "API_PORT", True),),
    api_responds=True,
    database=DatabaseState(
        version=180004,
        version_text="18.4",
        response_ms=1.0,
        connections=20,
        hidden_connections=0,
        max_connections=100,
        acceptance_gap_seconds=0.01,
    ),
    temporal=TemporalState(
        version="1.32.0", queues=(QueueState("order-tq", True), QueueState("shipping-tq", True))
    ),
)

NO_DATABASE = replace(HEALTHY, database=None, database_error="connection refused")
NO_TEMPORAL = replace(HEALTHY, temporal=None, temporal_error="connection refused")


def stack(**changes: Any) -> Observations:
    return replace(HEALTHY, stack=replace(HEALTHY.stack, **changes))


def process(**changes: Any) -> Observations:
    return stack(processes=(replace(HEALTHY.stack.processes[0], **changes),))


def database(**changes: Any) -> Observations:
    return replace(HEALTHY, database=replace(HEALTHY.database, **changes))


def session(**changes: Any) -> Observations:
    return database(sessions=(replace(Session(7, "report", 100.0, "select 1"), **changes),))


def temporal(**changes: Any) -> Observations:
    return replace(HEALTHY, temporal=replace(HEALTHY.temporal, **changes))


def down(**changes: Any) -> Observations:
    """The stack is down, so its servers were not called."""
    return replace(HEALTHY, stack=StackState(False, **changes), ports=(), database=None, temporal=None)


CASES: list[tuple[str, Observations, str]] = [
    ("stack-down", down(), "/srv/orders"),
    ("stack-died", down(has_died=True), "killed"),
    ("component-down", process(runs=False, state="FATAL"), "order-worker-1 is not running (fatal)"),
    ("component-restarting", process(recent_restarts=3), "3 times"),
    ("port-closed", replace(HEALTHY, ports=(PortState(8000, "the API", "API_PORT", False),)), "8000"),
    ("api-unavailable", replace(HEALTHY, api_responds=False), "API"),
    ("disk-full", replace(HEALTHY, disk=DiskSpace(Path("/srv"), GB // 2, 4 * GB)), "0.5 GB"),
    ("disk-full", replace(HEALTHY, disk=DiskSpace(Path("/srv"), 4 * GB, 100 * GB)), "4.0 GB"),
    ("database-unavailable", NO_DATABASE, "connection refused"),
    ("database-old", database(version=170002, version_text="17.2"), "17.2"),
    ("migrations-pending", database(pending_migrations=("20261124_x.sql",)), "20261124_x.sql"),
    ("migrations-unknown", database(unknown_migrations=("29991231",)), "29991231"),
    ("database-connections", database(connections=81), "81 of"),
    ("database-slow", database(response_ms=900.0), "900 ms"),
    ("database-locked", session(seconds=3.0, waits=True), "waiting 3 s"),
    ("database-idle-transaction", session(is_idle=True), "in a transaction for 100 s"),
    ("database-long-statement", session(), "100 s: select 1"),
    ("temporal-unavailable", NO_TEMPORAL, "connection refused"),
    ("temporal-old", temporal(version="1.24.2"), "1.24.2"),
    ("queue-without-workers", temporal(queues=(QueueState("order-tq", False),)), "order-tq"),
    ("queue-backlog", temporal(queues=(QueueState("order-tq", True, 40, 9.0),)), "40 tasks are waiting"),
    ("no-current-version", temporal(builds=("a1",), idle_builds=("a1",)), "version a1 are running"),
    ("current-version-incomplete", temporal(current_build="b2", current_build_lacks=("shipping-tq",)), "b2"),
    ("several-versions", temporal(builds=("a1", "b2")), "a1, b2"),
    ("orders-overdue", database(overdue=2, overdue_examples=("o-1", "o-2")), "o-1, o-2"),
    ("compensation-repeated", database(repeated_compensations=("o-3",)), "o-3"),
    ("clock-database", database(clock_ahead_seconds=-3.0), "3.0 s behind"),
    ("clock-temporal", temporal(clock_ahead_seconds=4.0), "4.0 s ahead of"),
    ("clock-acceptance", database(acceptance_gap_seconds=30.0), "30 s"),
]  # fmt: skip
NOTICES = {"several-versions", "orphan"}


def test_a_healthy_system_has_no_findings():
    assert diagnose(HEALTHY) == []


@pytest.mark.parametrize(("key", "observed", "words"), CASES, ids=[key for key, _, _ in CASES])
def test_one_fault_gives_exactly_one_finding(key, observed, words):
    (found,) = diagnose(observed)
    assert found.key == key
    assert words in found.message
    assert found.advice.endswith(".")
    assert found.severity == ("notice" if key in NOTICES else "problem")


def test_the_advice_for_external_servers_does_not_mention_the_stack():
    external = replace(
        database(pending_migrations=("20261124_x.sql",)),
        stack=None, ports=(), api_responds=False, has_embedded_postgres=False, has_embedded_temporal=False,
    )  # fmt: skip
    advice = {finding.key: finding.advice for finding in diagnose(external)}
    assert advice.keys() == {"api-unavailable", "migrations-pending"}
    assert "API_URL" in advice["api-unavailable"]
    assert "orders migrate" in advice["migrations-pending"]
    assert "make" not in " ".join(advice.values())


def test_orphans_are_listed_after_problems():
    found = diagnose(down(orphans=("the file /srv/orders/run/supervisor.sock",)))
    assert [each.key for each in found] == ["stack-down", "orphan"]


def test_a_taken_port_is_reported_while_the_stack_is_down():
    port = PortState(8000, "the API", "API_PORT", True, " by process 7 (nginx)")
    found = diagnose(replace(down(), ports=(port,)))
    assert [each.key for each in found] == ["stack-down", "port-taken"]
    assert "in use by process 7 (nginx)" in found[1].message


def all_keys() -> set[str]:
    return set(re.findall(r'Finding\(\s*"([a-z-]+)"', Path(findings.__file__).read_text()))


def test_every_finding_has_a_case():
    assert all_keys() == {key for key, _, _ in CASES} | {"orphan", "port-taken"}


def test_every_finding_is_tested_against_real_servers():
    tests = Path(__file__).parents[1] / "integration"
    tested = "".join((tests / name).read_text() for name in ("test_doctor.py", "test_versions.py"))
    assert {key for key in all_keys() if f'"{key}"' not in tested} == set()


@pytest.mark.parametrize(
    "below",
    [
        lambda: process(recent_restarts=2),
        lambda: session(seconds=29.0),
        lambda: session(seconds=59.0, is_idle=True),
        lambda: database(clock_ahead_seconds=0.9),
        lambda: replace(HEALTHY, disk=DiskSpace(Path("/srv"), 30 * GB, 1000 * GB)),
        lambda: temporal(queues=(QueueState("order-tq", True, 40, 1.0),)),
        # Both servers are external, so no stack is needed.
        lambda: replace(HEALTHY, stack=None, ports=()),
        lambda: temporal(version="1.30.0-rc.1"),
    ],
)
def test_a_value_just_below_its_threshold_is_not_a_finding(below: Callable[[], Observations]):
    assert diagnose(below()) == []


@pytest.mark.parametrize(("is_embedded", "advice"), [(True, "postgres.log"), (False, "DATABASE_URL")])
def test_the_advice_depends_on_whether_the_server_is_embedded(is_embedded, advice):
    observed = replace(HEALTHY, database=None, database_error="gone", has_embedded_postgres=is_embedded)
    (found,) = diagnose(observed)
    assert advice in found.advice
