"""Every finding of the doctor, each from readings that are well but for one thing."""

import re
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from orchestrator.operations.doctor import diagnose, findings
from orchestrator.operations.doctor.readings import (
    DatabaseReading,
    DiskReading,
    PortReading,
    ProcessReading,
    QueueReading,
    Readings,
    StackReading,
    StatementReading,
    TemporalReading,
)

GB = 1_000_000_000

WELL = Readings(
    at=datetime(2026, 11, 24, tzinfo=UTC),
    home=Path("/srv/orders"),
    disk=DiskReading(Path("/srv"), 80 * GB, 100 * GB),
    stack=StackReading(True, processes=(ProcessReading("order-worker-1", True, "RUNNING"),)),
    ports=(PortReading(8000, "the API", "API_PORT", True),),
    api_answers=True,
    database=DatabaseReading(
        version=180004,
        version_text="18.4",
        answer_ms=1.0,
        connections=20,
        days_ahead=7.2,
        acceptance_gap_seconds=0.01,
    ),
    temporal=TemporalReading(
        version="1.32.0", queues=(QueueReading("order-tq", True), QueueReading("shipping-tq", True))
    ),
)


def stack(**changes: Any) -> Readings:
    return replace(WELL, stack=replace(WELL.stack, **changes))


def process(**changes: Any) -> Readings:
    return stack(processes=(replace(WELL.stack.processes[0], **changes),))


def database(**changes: Any) -> Readings:
    return replace(WELL, database=replace(WELL.database, **changes))


def session(**changes: Any) -> Readings:
    return database(statements=(replace(StatementReading(7, "report", 100.0, "select 1"), **changes),))


def temporal(**changes: Any) -> Readings:
    return replace(WELL, temporal=replace(WELL.temporal, **changes))


def down(**changes: Any) -> Readings:
    """The stack does not run, so nobody asked its servers."""
    return replace(WELL, stack=StackReading(False, **changes), ports=(), database=None, temporal=None)


PROVOKED: list[tuple[str, Readings, str]] = [
    ("stack-down", down(), "/srv/orders"),
    ("stack-died", down(has_died=True), "killed"),
    ("component-down", process(runs=False, state="FATAL"), "order-worker-1 does not run (fatal)"),
    ("component-flapping", process(restarts=3), "3 times"),
    ("port-silent", replace(WELL, ports=(PortReading(8000, "the API", "API_PORT", False),)), "8000"),
    ("api-silent", replace(WELL, api_answers=False), "API"),
    ("disk-full", replace(WELL, disk=DiskReading(Path("/srv"), GB // 2, 4 * GB)), "0.5 GB"),
    ("disk-full", replace(WELL, disk=DiskReading(Path("/srv"), 4 * GB, 100 * GB)), "4.0 GB"),
    ("database-away", database(why_away="connection refused"), "connection refused"),
    ("database-old", database(version=170002, version_text="17.2"), "17.2"),
    ("migrations-pending", database(pending_migrations=("20261124_x.sql",)), "20261124_x.sql"),
    ("migrations-unknown", database(unknown_migrations=("29991231",)), "29991231"),
    ("database-connections", database(connections=81), "81 of"),
    ("partitions-missing", database(days_ahead=-2.0), "partitions"),
    ("database-slow", database(answer_ms=900.0), "900 ms"),
    ("database-locked", session(seconds=3.0, waits=True), "waiting 3 s"),
    ("database-idle-transaction", session(is_idle=True), "open for 100 s"),
    ("database-long-statement", session(), "100 s: select 1"),
    ("temporal-away", temporal(why_away="connection refused"), "connection refused"),
    ("temporal-old", temporal(version="1.24.2"), "1.24.2"),
    ("queue-unserved", temporal(queues=(QueueReading("order-tq", False),)), "order-tq"),
    ("queue-backlog", temporal(queues=(QueueReading("order-tq", True, 40, 9.0),)), "40 tasks wait"),
    ("no-current-version", temporal(builds=("a1",), idle_builds=("a1",)), "version a1 run"),
    ("several-versions", temporal(builds=("a1", "b2")), "a1, b2"),
    ("orders-overdue", database(overdue=2, overdue_examples=("o-1", "o-2")), "o-1, o-2"),
    ("undoing-repeated", database(stuck_undoing=("o-3",)), "o-3"),
    ("clock-database", database(clock_ahead_seconds=-3.0), "3.0 s behind"),
    ("clock-temporal", temporal(clock_ahead_seconds=4.0), "4.0 s ahead of"),
    ("clock-acceptance", database(acceptance_gap_seconds=30.0), "30 s"),
]  # fmt: skip
NOTICES = {"several-versions", "leftover"}


def test_nothing_is_wrong_with_what_is_well():
    assert diagnose(WELL) == []


@pytest.mark.parametrize(("key", "readings", "words"), PROVOKED, ids=[key for key, _, _ in PROVOKED])
def test_one_thing_that_is_wrong_is_found_and_nothing_else(key, readings, words):
    (found,) = diagnose(readings)
    assert found.key == key
    assert words in found.what
    assert found.advice.endswith(".")
    assert found.severity == ("notice" if key in NOTICES else "problem")


def test_the_advice_for_servers_elsewhere_is_not_about_a_stack():
    elsewhere = replace(
        database(pending_migrations=("20261124_x.sql",)),
        stack=None, ports=(), api_answers=False, is_embedded={"database": False, "temporal": False},
    )  # fmt: skip
    advice = {finding.key: finding.advice for finding in diagnose(elsewhere)}
    assert advice.keys() == {"api-silent", "migrations-pending"}
    assert "API_URL" in advice["api-silent"]
    assert "python -m orchestrator migrate" in advice["migrations-pending"]
    assert "make" not in " ".join(advice.values())


def test_what_a_killed_stack_left_is_told_after_the_problem():
    found = diagnose(down(leftovers=("the file /srv/orders/run/supervisor.sock",)))
    assert [each.key for each in found] == ["stack-down", "leftover"]


def test_a_taken_port_is_told_while_the_stack_is_down():
    port = PortReading(8000, "the API", "API_PORT", True, " by process 7 (nginx)")
    found = diagnose(replace(down(), ports=(port,)))
    assert [each.key for each in found] == ["stack-down", "port-taken"]
    assert "taken by process 7 (nginx)" in found[1].what


def every_key() -> set[str]:
    return set(re.findall(r'Finding\(\s*"([a-z-]+)"', Path(findings.__file__).read_text()))


def test_every_finding_there_is_has_been_provoked():
    assert every_key() == {key for key, _, _ in PROVOKED} | {"leftover", "port-taken"}


def test_every_finding_there_is_has_been_met_by_a_probe_of_real_servers():
    tests = Path(__file__).parents[1] / "integration"
    met = "".join((tests / name).read_text() for name in ("test_doctor.py", "test_versions.py"))
    assert {key for key in every_key() if f'"{key}"' not in met} == set()


@pytest.mark.parametrize(
    "nearly",
    [
        lambda: process(restarts=2),
        lambda: session(seconds=29.0),
        lambda: session(seconds=59.0, is_idle=True),
        lambda: database(clock_ahead_seconds=0.9),
        lambda: replace(WELL, disk=DiskReading(Path("/srv"), 30 * GB, 1000 * GB)),
        lambda: temporal(queues=(QueueReading("order-tq", True, 40, 1.0),)),
        # Both servers are somebody else's and no stack is needed here.
        lambda: replace(WELL, stack=None, ports=()),
        lambda: temporal(version="1.30.0-rc.1"),
    ],
)
def test_what_is_only_nearly_wrong_is_not_told(nearly: Callable[[], Readings]):
    assert diagnose(nearly()) == []


@pytest.mark.parametrize(("is_embedded", "advice"), [(True, "postgres.log"), (False, "DATABASE_URL")])
def test_the_advice_fits_whose_server_it_is(is_embedded, advice):
    readings = replace(
        database(why_away="gone"), is_embedded={"database": is_embedded, "temporal": is_embedded}
    )
    (found,) = diagnose(readings)
    assert advice in found.advice
