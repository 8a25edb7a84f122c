"""Temporal's development server from its package: its command and what makes it quick."""

from orchestrator.settings import Settings
from orchestrator.stack.tools import packaged_program

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
        *("--db-filename", "temporal.db"),
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
