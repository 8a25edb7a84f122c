"""Temporal's development server from its package: its command and what makes it quick."""

import shutil
import socket
import sqlite3
import subprocess
import time
from contextlib import closing
from pathlib import Path

from orchestrator.embedded.layout import Layout, stack_environment
from orchestrator.embedded.packaged_programs import packaged_program
from orchestrator.errors import StackError
from orchestrator.settings import LOOPBACK, Settings

DATABASE = "temporal.db"

# Measured with one order in flight, or under faults; without them a hop waits for a 50 ms tick and a
# server-side retry for 0.8 s. A production cluster has none of these, and nothing may depend on them.
_DYNAMIC_CONFIG = {
    "history.transferProcessorMaxPollRPS": "2000",
    "history.timerProcessorMaxPollRPS": "2000",
    "history.timerProcessorMaxTimeShift": '"10ms"',
    # Workflows kept in memory, closed ones too. By default it is 128,000 for an hour: memory that grows for
    # as long as orders come in. A closed workflow is not asked for again soon.
    "history.hostLevelCacheMaxSize": "2000",
}
_SQLITE_PRAGMAS = {"journal_mode": "wal", "synchronous": "normal"}

ENVIRONMENT = {"GOGC": "400", "GOMEMLIMIT": "1GiB"}
"""Less garbage collection, about 10 % less CPU, until there is so much that it would go on growing."""

_INDEXES_ASKED_BY = {
    "default_idx",
    "by_workflow_id",
    "by_workflow_type",
    "by_status",
    "by_parent_workflow_id",
    "by_root_workflow_id",
}
"""What the UI, the audit and the reconciler look workflows up by. The server makes 53 indexes more, most of
them over search attributes that nobody has set, and each start and end of a workflow writes all of them: an
eighth of its CPU (docs/decisions/0011). What is asked by another column is found without an index, slower."""

_CREATION_SECONDS = 60.0
_STOP_SECONDS = 10.0
_LOOK_AGAIN_SECONDS = 0.05


def server_command(settings: Settings) -> tuple[str, ...]:
    """`temporal server start-dev`, to be run in its data directory.

    The database is named relative to it: SQLite would read a `?` or `%` of the whole path as its own.
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
    """Makes the server's database if there is none, and takes the indexes from it that nobody asks by.

    Raises StackError when the server does not make one.
    """
    layout.temporal_data.mkdir(exist_ok=True)
    database = layout.temporal_data / DATABASE
    if not database.exists():
        _make_database(settings, layout, database)
    with closing(sqlite3.connect(database)) as connection:
        for index in _indexes(connection) - _INDEXES_ASKED_BY:
            connection.execute(f'drop index "{index}"')
        connection.commit()


def _indexes(connection: sqlite3.Connection) -> set[str]:
    rows = connection.execute(
        "select name from sqlite_master where type = 'index' and tbl_name = 'executions_visibility'"
        " and sql is not null"
    )
    return {name for (name,) in rows}


def _make_database(settings: Settings, layout: Layout, database: Path) -> None:
    """Only the server itself knows its schema, so it is run until it listens; in a directory beside, so that
    an interrupted start leaves nothing that looks like data."""
    beside = layout.temporal_data.with_name("temporal.making")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir()
    log = layout.log("temporal-first-start")
    with log.open("wb") as output:
        process = subprocess.Popen(
            server_command(settings),
            cwd=beside,
            # Marked as the stack's, so that the next start ends it if this one is killed.
            env={**stack_environment(settings), **ENVIRONMENT},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
        try:
            if not _listens(settings.port("temporal"), process):
                raise StackError(f"Temporal could not make its database; the log is {log}.")
        finally:
            process.terminate()
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
    for file in beside.iterdir():
        # The database last: it is what tells that there is one.
        if file.name != DATABASE:
            file.rename(database.with_name(file.name))
    (beside / DATABASE).rename(database)
    beside.rmdir()


def _listens(port: int, process: subprocess.Popen[bytes]) -> bool:
    not_after = time.monotonic() + _CREATION_SECONDS
    while process.poll() is None and time.monotonic() < not_after:
        try:
            socket.create_connection((LOOPBACK, port), timeout=1).close()
        except OSError:
            time.sleep(_LOOK_AGAIN_SECONDS)
        else:
            return True
    return False
