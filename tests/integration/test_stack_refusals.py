"""Each reason why the stack refuses to start, with its message."""

import dataclasses
import os
import shutil
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.embedded import Stack, components, postgres
from orchestrator.embedded.layout import Layout
from tests.stacks import refusal, stack_settings, temporary_home

pytestmark = [pytest.mark.stack, pytest.mark.timeout(360)]


@pytest.fixture
def home() -> Iterator[Path]:
    """A directory whose name contains special characters."""
    with temporary_home("orders %s; #1 ") as home:
        yield home


def test_a_component_that_exits_is_named_with_its_last_log_lines(home: Path) -> None:
    settings = stack_settings(home)
    failing = (sys.executable, "-c", "raise SystemExit('cannot start the API')")
    with_failing_api = [
        dataclasses.replace(component, command=failing) if component.name == "api" else component
        for component in components.components(settings)
    ]
    message = refusal(Stack(settings, with_failing_api))
    assert message.startswith("api ")
    assert "cannot start the API" in message
    assert str(Layout(settings).log("api")) in message


def test_a_port_in_use_is_named_with_its_process_and_setting(home: Path) -> None:
    settings = stack_settings(home)
    with socket.create_server(("127.0.0.1", settings.port("temporal_ui"))):
        message = refusal(Stack(settings))
    assert f"Port {settings.port('temporal_ui')}" in message
    assert f"process {os.getpid()}" in message
    assert "TEMPORAL_UI_PORT" in message
    assert not (home / "postgres").exists()


def test_a_port_cannot_be_set_twice(home: Path) -> None:
    settings = stack_settings(home)
    twice = settings.model_copy(update={"api_port": settings.port("temporal")})
    assert "API_PORT" in refusal(Stack(twice))


def test_data_of_another_postgres_version_is_not_changed(home: Path) -> None:
    data = home / "postgres"
    data.mkdir()
    (data / "PG_VERSION").write_text("16\n")
    message = refusal(Stack(stack_settings(home)))
    assert "PostgreSQL 16" in message
    assert [path.name for path in data.iterdir()] == ["PG_VERSION"]


def test_other_files_in_the_data_directory_are_not_changed(home: Path) -> None:
    (home / "postgres").mkdir()
    (home / "postgres" / "letter.txt").write_text("dear data")
    assert "rename it" in refusal(Stack(stack_settings(home)))
    assert (home / "postgres" / "letter.txt").read_text() == "dear data"


def test_a_full_disk_is_refused_before_any_process_starts(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(home)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage._replace(free=5 * 2**20))
    message = refusal(Stack(stack_settings(home)))
    assert "5 MB free" in message
    assert not (home / "postgres").exists()


def test_a_disk_that_fills_up_during_initdb_leaves_no_data(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = home / "programs" / "bin"
    programs.mkdir(parents=True)
    initdb = programs / "initdb"
    initdb.write_text('#!/bin/sh\necho "could not write: No space left on device" >&2\nexit 1\n')
    (programs / "postgres").touch()
    for program in programs.iterdir():
        program.chmod(0o755)
    monkeypatch.setattr(postgres, "programs", lambda: programs)
    assert "is full" in refusal(Stack(stack_settings(home)))
    assert not (home / "postgres").exists()
    assert not (home / "postgres.unfinished").exists()


def test_orders_home_must_be_a_directory(home: Path) -> None:
    (home / "file").touch()
    assert "is a file" in refusal(Stack(stack_settings(home / "file")))
    assert "ORDERS_HOME" in refusal(Stack(stack_settings(home / "file" / "below")))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs a directory that root cannot write")
def test_orders_home_must_be_writable() -> None:
    message = refusal(Stack(stack_settings(Path("/proc/orders"))))
    assert "cannot be written" in message


def test_an_unavailable_database_server_is_named_without_the_password(home: Path) -> None:
    settings = stack_settings(home).model_copy(
        update={"database_url": "postgresql://user:secret@127.0.0.1:1/orders", "temporal_address": "x:1"}
    )
    message = refusal(Stack(settings))
    assert "DATABASE_URL" in message
    assert "secret" not in message
