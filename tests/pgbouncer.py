"""Debian's PgBouncer in front of a PostgreSQL server of the tests."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from tests.directories import temporary_directory

STARTUP_SECONDS = 60.0

_CONFIGURATION = """\
[databases]
{database} = host={host} port={port}
[pgbouncer]
unix_socket_dir = {directory}
listen_addr =
listen_port = 6432
auth_type = trust
auth_file = {directory}/users
pool_mode = {pool_mode}
default_pool_size = {connections}
logfile = {directory}/pgbouncer.log
"""


def pgbouncer_program() -> str | None:
    return shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/bin")


@contextmanager
def pgbouncer(url: str, pool_mode: str, *, connections: int) -> Iterator[str]:
    """Yield the URL of a PgBouncer in front of the server of `url`, with this many server connections."""
    program = pgbouncer_program()
    assert program is not None
    server = conninfo_to_dict(url)
    with temporary_directory("orders-pgbouncer-") as directory:
        directory.chmod(0o711)
        (directory / "users").write_text('"postgres" ""\n"orders_reader" ""\n')
        (directory / "pgbouncer.ini").write_text(
            _CONFIGURATION.format(
                database=server["dbname"],
                host=server["host"],
                port=server["port"],
                directory=directory,
                pool_mode=pool_mode,
                connections=connections,
            )
        )
        # The server accepts connections of its owner and of root; PgBouncer does not run as root.
        owner = Path(str(server["host"])).stat()
        os.chown(directory, owner.st_uid, owner.st_gid)
        account = {"user": owner.st_uid, "group": owner.st_gid, "extra_groups": [owner.st_gid]}
        process = subprocess.Popen(
            [program, "-q", str(directory / "pgbouncer.ini")],
            cwd=directory,
            **(account if os.geteuid() == 0 else {}),  # type: ignore[call-overload]
        )
        try:
            pooled = make_conninfo(url, host=str(directory), port=6432)
            _wait_until_ready(pooled, process)
            parameters = "&".join(
                f"{name}={value}" for name, value in {"host": directory, "port": 6432}.items()
            )
            yield f"postgresql://postgres@/{server['dbname']}?{parameters}&sslmode=disable"
        finally:
            process.terminate()
            process.wait(10)


def _wait_until_ready(conninfo: str, process: subprocess.Popen[bytes]) -> None:
    not_after = monotonic() + STARTUP_SECONDS
    while True:
        try:
            psycopg.connect(conninfo, connect_timeout=2).close()
        except psycopg.OperationalError:
            if process.poll() is not None or monotonic() > not_after:
                raise
            sleep(0.02)
        else:
            return
