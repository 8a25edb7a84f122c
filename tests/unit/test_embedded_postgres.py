"""The embedded PostgreSQL server: its connections, and what a start as root changes."""

import os
import pwd
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from db.database import POOL_SIZE
from orchestrator.embedded import Stack, components, postgres
from orchestrator.embedded.component import Account
from orchestrator.embedded.layout import Layout
from orchestrator.settings import Settings


def max_connections(workers: int) -> int:
    settings = Settings(
        database_url=None, temporal_address=None, order_workers=workers, shipping_workers=workers
    )
    (server,) = (each for each in components.components(settings) if each.name == "postgres")
    (option,) = (word for word in server.command if word.startswith("max_connections="))
    return int(option.removeprefix("max_connections="))


@pytest.mark.parametrize("workers", [1, 2, 8, 32])
def test_there_are_connections_for_all_workers_and_50_others(workers: int) -> None:
    assert max_connections(workers) >= 2 * workers * POOL_SIZE + 50


def test_a_small_stack_has_100_connections() -> None:
    assert max_connections(2) == 100


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs the server as another user")
def test_directories_opened_for_the_server_are_reported_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def initialize(layout: Layout, _report: object) -> None:
        layout.postgres_data.mkdir(parents=True, exist_ok=True)

    monkeypatch.setattr(postgres, "_initialize", initialize)
    # Not in tmp_path: if the name of ORDERS_HOME is long, the sockets are in another directory.
    with tempfile.TemporaryDirectory(prefix="orders-closed-") as directory:
        closed = Path(directory)
        layout = Layout(Settings(orders_home=closed / "home", database_url=None))
        layout.sockets.mkdir(parents=True)
        reports: list[str] = []
        postgres.prepare(layout, reports.append)
        assert [change for change in reports if f"may now enter {closed}," in change]
        assert closed.stat().st_mode & 0o777 == 0o711
        reports.clear()
        postgres.prepare(layout, reports.append)
        assert reports == []


def test_concurrent_starts_create_the_server_s_user_once(monkeypatch: pytest.MonkeyPatch) -> None:
    created: list[str] = []
    reports: list[str] = []

    def getpwnam(name: str) -> SimpleNamespace:
        if name not in created:
            raise KeyError(name)
        return SimpleNamespace(pw_uid=999, pw_gid=998)

    def useradd(command: list[str], **_: object) -> None:
        time.sleep(0.05)
        assert command[-1] not in created
        created.append(command[-1])

    monkeypatch.setattr(pwd, "getpwnam", getpwnam)
    monkeypatch.setattr(subprocess, "run", useradd)
    with ThreadPoolExecutor(5) as threads:
        users = list(threads.map(lambda _: postgres._server_user(reports.append), range(5)))
    assert set(users) == {Account(999, 998)}
    assert len(reports) == 1


def test_changes_of_a_component_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("supervisor.write_configuration", "supervisor.start_supervisor"):
        monkeypatch.setattr(f"orchestrator.embedded.{name}", lambda *_, **__: None)
    monkeypatch.setattr(Stack, "_start_in_order", lambda *_: None)
    settings = Settings(orders_home=tmp_path, database_url=None, temporal_address=None)
    changing = replace(
        components.components(settings)[-1], prepare=lambda report: report("a change"), ports=()
    )
    reports: list[str] = []
    Stack(settings, [changing]).up(report=reports.append)
    assert reports == ["a change"]
