"""Temporal's development server: its command, its configuration and its database."""

import shutil
import socket
import sqlite3
import subprocess
import time
from contextlib import closing
from pathlib import Path

from orchestrator.embedded.layout import Layout, packaged_program, stack_environment
from orchestrator.errors import StackError
from orchestrator.settings import LOOPBACK, Settings

DATABASE = "temporal.db"

# Faster on one machine; a production cluster does not have these values, so no deadline may depend on them.
_DYNAMIC_CONFIG = {
    # One order alone takes 66 ms in place of 500 ms, and a server-side retry 10 ms in place of 0.8 s.
    "history.transferProcessorMaxPollRPS": "2000",
    "history.timerProcessorMaxPollRPS": "2000",
    "history.timerProcessorMaxTimeShift": '"10ms"',
    # Workflows in memory, including closed ones. With the default of 128,000, memory grows with each order
    # for an hour.
    "history.hostLevelCacheMaxSize": "2000",
    # The default of 4 forwards tasks between partitions. With 1, at 18 orders/s under faults in two
    # alternating pairs of runs: 4 % less server CPU, and p99 6.5 s in place of 7.3 s, and 6.8 s in place of
    # 7.0 s.
    "matching.numTaskqueueReadPartitions": "1",
    "matching.numTaskqueueWritePartitions": "1",
}
_SQLITE_PRAGMAS = {"journal_mode": "wal", "synchronous": "normal"}

ENVIRONMENT = {"GOGC": "400", "GOMEMLIMIT": "1GiB"}
"""Less frequent garbage collection takes about 10 % less CPU; the limit bounds the memory for it."""

_USED_INDEXES = {
    "default_idx",
    "by_workflow_id",
    "by_workflow_type",
    "by_status",
    "by_parent_workflow_id",
    "by_root_workflow_id",
}
"""The indexes that the UI, the audit and the reconciler use. The server creates 53 others, most of them for
unused search attributes. Each start and end of a workflow updates all of them, which takes an eighth of the
server's CPU. Queries by other columns still work, without an index."""

_FIRST_START_SECONDS = 60.0
_STOP_SECONDS = 10.0
_POLL_SECONDS = 0.05


def server_command(settings: Settings) -> tuple[str, ...]:
    """Return the command, which must run in the data directory.

    The path of the database is relative: SQLite would interpret `?` and `%` in an absolute path.
    """
    dynamic = [
        part
        for key, value in _DYNAMIC_CONFIG.items()
        for part in ("--dynamic-config-value", f"{key}={value}")
    ]
    pragmas = [
        part for key, value in _SQLITE_PRAGMAS.items() for part in ("--sqlite-pragma", f"{key}={value}")
    ]
    return (
        packaged_program("temporal"),
        *("server", "start-dev"),
        *("--db-filename", DATABASE),
        *("--namespace", settings.temporal_namespace),
        *("--ip", "127.0.0.1"),
        *("--port", str(settings.port("temporal"))),
        *("--ui-port", str(settings.port("temporal_ui"))),
        *("--http-port", str(settings.port("temporal_http"))),
        *("--metrics-port", str(settings.port("temporal_metrics"))),
        "--ui-disable-news-fetch",
        *("--log-level", "warn"),
        *dynamic,
        *pragmas,
    )


def prepare(settings: Settings, layout: Layout) -> None:
    """Create the server's database if necessary and drop its unused indexes. Raises StackError if that
    fails."""
    layout.temporal_data.mkdir(exist_ok=True)
    database = layout.temporal_data / DATABASE
    if not database.exists():
        _create_database(settings, layout, database)
    with closing(sqlite3.connect(database)) as connection:
        for index in _indexes(connection) - _USED_INDEXES:
            connection.execute(f'drop index "{index}"')
        connection.commit()


def _indexes(connection: sqlite3.Connection) -> set[str]:
    rows = connection.execute(
        "select name from sqlite_master where type = 'index' and tbl_name = 'executions_visibility'"
        " and sql is not null"
    )
    return {name for (name,) in rows}


def _create_database(settings: Settings, layout: Layout, database: Path) -> None:
    """Run the server until it listens: it creates the schema.

    It runs in another directory, so that an interrupted start leaves no partial data.
    """
    unfinished = layout.temporal_data.with_name("temporal.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    log = layout.log("temporal-first-start")
    with log.open("wb") as output:
        process = subprocess.Popen(
            server_command(settings),
            cwd=unfinished,
            # With STACK_MARKER, the next start ends it if this one is killed.
            env={**stack_environment(settings), **ENVIRONMENT},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
        try:
            if not _wait_until_listening(settings.port("temporal"), process):
                raise StackError(f"Temporal could not create its database. Read {log}.")
        finally:
            process.terminate()
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
    for file in unfinished.iterdir():
        # The database last, because its existence means that the data is complete.
        if file.name != DATABASE:
            file.rename(database.with_name(file.name))
    (unfinished / DATABASE).rename(database)
    unfinished.rmdir()


def _wait_until_listening(port: int, process: subprocess.Popen[bytes]) -> bool:
    not_after = time.monotonic() + _FIRST_START_SECONDS
    while process.poll() is None and time.monotonic() < not_after:
        try:
            socket.create_connection((LOOPBACK, port), timeout=1).close()
        except OSError:
            time.sleep(_POLL_SECONDS)
        else:
            return True
    return False
