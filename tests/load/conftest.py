"""A database and a home for the runs of each test."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.load.harness import LoadTest
from tests.ports import free_port_base
from tests.servers import PostgresServer, postgres_server


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    with postgres_server() as server:
        yield server


@pytest.fixture
def load_test(postgres: PostgresServer, tmp_path: Path) -> Iterator[LoadTest]:
    with postgres.fresh_database() as url:
        yield LoadTest(tmp_path, url, free_port_base())


@pytest.fixture(autouse=True, scope="session")
def default_hangup() -> None:
    """Let load tests receive SIGHUP also if pytest was started with `nohup`, which children inherit."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
