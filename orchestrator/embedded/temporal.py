"""Temporal's development server: its command, its configuration and its database."""

import sqlite3
from contextlib import closing

from orchestrator.embedded.layout import Layout, packaged_program
from orchestrator.settings import Settings

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
"""The indexes that the UI, the audit and the reconciler use, besides that of the search attribute OrderRunId.
The server creates 52 others, most of them for unused search attributes. Each start and end of a workflow
updates all of them, which takes an eighth of the server's CPU. Queries by other columns still work, without
an index."""

_SQLITE_BUSY_SECONDS = 10.0


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


def prepare_visibility(settings: Settings, layout: Layout) -> None:
    """Register the search attribute of orders, and drop the unused indexes that the server created at its
    first start. The server is running."""
    # Imported while the servers start: the SDK takes 0.5 s to load.
    from orchestrator.startup.servers import run_check
    from orchestrator.temporal import search_attributes
    from orchestrator.temporal.client import connect

    async def register() -> str:
        return await search_attributes.register(await connect(settings, identity="stack"))

    # The server selects one of the columns Keyword01 to Keyword10 at random.
    column = run_check(register())
    _drop_indexes(layout, _USED_INDEXES | {column.replace("Keyword", "by_keyword_")})


def _drop_indexes(layout: Layout, used: set[str]) -> None:
    database = sqlite3.connect(layout.temporal_data / DATABASE, timeout=_SQLITE_BUSY_SECONDS)
    with closing(database), database:
        rows = database.execute(
            "select name from sqlite_master where type = 'index' and tbl_name = 'executions_visibility'"
            " and sql is not null"
        ).fetchall()
        for name in {name for (name,) in rows} - used:
            database.execute(f'drop index "{name}"')
