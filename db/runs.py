"""Load tests in the books: what was asked, what was measured, and the verdict.

Synchronous, because the load generator is built on greenlets, with which psycopg's waiting cooperates.
Every function opens a connection of its own, since the database may be restarted during a run, and raises
DatabaseUnavailable when PostgreSQL does not answer.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from db import queries
from db.database import Row
from db.sqlstate import translate_errors

_SQL = queries.load("runs.sql")

SILENT_SECONDS = 120.0
"""A run that lives starts an order more often than this, and needs less to judge itself after its drain."""

CONNECT_SECONDS = 3


@dataclass(frozen=True)
class NewRun:
    """A run as it starts. `fault_profile` is the one in force, `stages` the plan of its rates; `options` also
    tell, as `faults_since`, from when on it has been in force if the run has set it."""

    run_id: str
    scenario: str
    options: Row
    stages: list[Row]
    fault_profile: str | None
    fault_seed: int | None
    started_at: datetime
    commit_hash: str | None
    machine: Row


@dataclass(frozen=True)
class RunResult:
    """A run as it was judged. `statistics` has one row a second; `completion_ms` are exact times."""

    ended_at: datetime
    statistics: list[Row]
    verdict: Row
    chaos: list[Row]
    completion_ms: list[int]
    late_orders: int
    counted_orders: int


@dataclass(frozen=True)
class StoredRun:
    """A run as the books have it; everything after `machine` is None while it is under way."""

    run_id: str
    scenario: str
    options: Row
    stages: list[Row]
    fault_profile: str | None
    fault_seed: int | None
    started_at: datetime
    ended_at: datetime | None
    commit_hash: str | None
    machine: Row
    statistics: list[Row] | None
    verdict: Row | None
    chaos: list[Row]
    completion_ms: list[int] | None
    late_orders: int | None
    counted_orders: int | None


def is_used(url: str, run_id: str) -> bool:
    """Whether a run, or an order of one, has this id."""
    with _connection(url) as connection:
        row = connection.execute(_SQL["run_id_is_used"], {"run_id": run_id}).fetchone()
    return row is not None and bool(row["used"])


def that_set_faults(url: str, since: str) -> str | None:
    """The run under way that set the fault profile which has been in force since then, as the API tells it;
    None when somebody else set it, or the run is over, or was broken off."""
    parameters = {"since": since, "silent_seconds": SILENT_SECONDS}
    with _connection(url) as connection:
        row = connection.execute(_SQL["run_that_set_faults"], parameters).fetchone()
    return None if row is None else str(row["run_id"])


def open_run(url: str, run: NewRun) -> bool:
    """Writes down that a run begins. Returns False when its id was taken in the meantime."""
    parameters = vars(run) | {
        "options": Jsonb(run.options),
        "stages": Jsonb(run.stages),
        "machine": Jsonb(run.machine),
    }
    with _connection(url) as connection:
        return connection.execute(_SQL["open_run"], parameters).fetchone() is not None


def close_run(url: str, run_id: str, result: RunResult) -> None:
    """Writes down what a run has shown."""
    parameters = vars(result) | {
        "run_id": run_id,
        "statistics": Jsonb(result.statistics),
        "verdict": Jsonb(result.verdict),
        "chaos": Jsonb(result.chaos),
    }
    with _connection(url) as connection:
        connection.execute(_SQL["close_run"], parameters)


def find(url: str, run_id: str) -> StoredRun | None:
    """The run, or None when there is none of this id."""
    with _connection(url) as connection:
        row = connection.execute(_SQL["run"], {"run_id": run_id}).fetchone()
    return None if row is None else StoredRun(**row)


@contextmanager
def _connection(url: str) -> Iterator[psycopg.Connection[dict[str, Any]]]:
    with (
        translate_errors(),
        psycopg.connect(
            url,
            autocommit=True,
            row_factory=dict_row,
            connect_timeout=CONNECT_SECONDS,
            application_name="loadtest",
        ) as connection,
    ):
        yield connection
