"""A PostgreSQL server with TCP and passwords, and the roles and tables of a deployment."""

from collections.abc import Iterator

import psycopg
import pytest

from tests import secrets
from tests.deployment.compose import SECRETS
from tests.deployment.processes import Host, Ports
from tests.directories import temporary_directory
from tests.ports import free_port_base
from tests.servers import PostgresServer, empty_postgres_server

ACCESS = """
local all postgres trust
host all all 127.0.0.1/32 scram-sha-256
"""
"""The tests connect as superuser over the socket; all others need a password."""


@pytest.fixture(scope="session")
def ports() -> Ports:
    base = free_port_base()
    return Ports(*range(base, base + 9))


@pytest.fixture(scope="session")
def postgres(ports: Ports, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    # Not in tmp_path, which the server's user cannot enter.
    with temporary_directory("orders-access-") as directory:
        directory.chmod(0o755)
        access = directory / "pg_hba.conf"
        access.write_text(ACCESS)
        access.chmod(0o644)
        options = (
            "-c",
            "listen_addresses=127.0.0.1",
            "-c",
            f"hba_file={access}",
            "-c",
            "max_connections=300",
        )
        with empty_postgres_server(*options, port=ports.postgres) as (server, _):
            with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
                connection.execute(f"alter role postgres password '{SECRETS['POSTGRES_PASSWORD']}'".encode())
            yield server


@pytest.fixture(scope="session")
def host(ports: Ports, postgres: PostgresServer) -> Iterator[Host]:
    """A host on which the jobs have created roles, databases and tables."""
    with temporary_directory("orders-deployment-") as directory:
        host = Host(directory, ports)
        host.make_image()
        for job in ("postgres-roles", "migrate"):
            done = host.run(job)
            assert done.returncode == 0, done.stdout
        yield host
        host.stop_all()
        # Not earlier: `docker-compose config`, which other tests run, prints them.
        secrets.planted.update(SECRETS.values())
