"""Stores load tests (options, measurements, verdict) and disturbances of components.

The functions are synchronous, because load generators run on greenlets, and psycopg yields to other greenlets
while it waits. Each function opens its own connection, since PostgreSQL may be restarted during a run, and
raises DatabaseError.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

from psycopg.types.json import Jsonb

from db import queries
from db.database import Row, connect
from db.errors import DatabaseError

_SQL = queries.load("runs.sql")
_APPLICATION = "loadtest"

SILENT_SECONDS = 120.0
"""A run counts as aborted when it has started no order for its drain time plus this time."""

DISTURBANCE_RETRY_SECONDS = 0.25

START_LOCK_MS = 50_000
"""Maximum wait for the lock. A start calls the API three times, each for at most 17 s. The wait is shorter
than the roles' statement timeout of 60 s, so it ends with LockTimeout."""


@dataclass(frozen=True)
class NewRun:
    """A run when it starts. `fault_profile` is the active one, `stages` are the planned rates. If the run has
    set the profile, `options["faults_since"]` is the time of that change, and `options["faults_before"]` the
    profile before it."""

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
    """The result of a run. `statistics` has one row per second. `completion_ms` has the time of each counted
    order, by scheduled send time, and None for one without an outcome."""

    ended_at: datetime
    statistics: list[Row]
    verdict: Row
    chaos: list[Row]
    completion_ms: list[int | None]
    late_orders: int
    counted_orders: int


@dataclass(frozen=True)
class StoredRun(NewRun):
    """A stored run. While it is running, the fields of the result are None, except `chaos`: it is empty."""

    ended_at: datetime | None
    statistics: list[Row] | None
    verdict: Row | None
    chaos: list[Row]
    completion_ms: list[int | None] | None
    late_orders: int | None
    counted_orders: int | None


def run_id_exists(url: str, run_id: str) -> bool:
    """Return whether a run or an order has this run id."""
    with connect(url, _APPLICATION) as connection:
        row = connection.execute(_SQL["run_id_exists"], {"run_id": run_id}).fetchone()
    return row is not None and bool(row["found"])


@contextmanager
def one_start_at_a_time(url: str) -> Iterator[None]:
    """Hold a lock while a load test checks other runs, sets the fault profile and is stored.

    Raises LockTimeout if another start holds it for too long.
    """
    with connect(url, _APPLICATION) as connection, connection.transaction():
        connection.execute(_SQL["lock_starts"], {"lock_timeout_ms": str(START_LOCK_MS)})
        yield


def run_that_set_faults(url: str, since: str) -> str | None:
    """Return the id of the running load test that set the fault profile at `since` (as in the API's JSON).
    Return None when no load test set it, or that load test has ended or was aborted."""
    parameters = {"since": since, "silent_seconds": SILENT_SECONDS}
    with connect(url, _APPLICATION) as connection:
        row = connection.execute(_SQL["run_that_set_faults"], parameters).fetchone()
    return None if row is None else str(row["run_id"])


def restore_faults(url: str) -> tuple[str, str] | None:
    """Replace the fault profile that a killed load test left behind by the one before it.

    Return the id of that load test and the restored profile, or None if there is nothing to restore.
    """
    with connect(url, _APPLICATION) as connection:
        left = connection.execute(_SQL["faults_left"], {"silent_seconds": SILENT_SECONDS}).fetchone()
        if left is None:
            return None
        before = left["before"]
        connection.execute(_SQL["restore_faults"], before | {"rates": Jsonb(before["rates"])})
    return left["run_id"], before["profile"]


def open_run(url: str, run: NewRun) -> bool:
    """Store a run that starts. Return False if a run with this id exists."""
    parameters = vars(run) | {
        "options": Jsonb(run.options),
        "stages": Jsonb(run.stages),
        "machine": Jsonb(run.machine),
    }
    with connect(url, _APPLICATION) as connection:
        return connection.execute(_SQL["open_run"], parameters).fetchone() is not None


def close_run(url: str, run_id: str, result: RunResult) -> None:
    """Store the result of a run."""
    parameters = vars(result) | {
        "run_id": run_id,
        "statistics": Jsonb(result.statistics),
        "verdict": Jsonb(result.verdict),
        "chaos": Jsonb(result.chaos),
    }
    with connect(url, _APPLICATION) as connection:
        connection.execute(_SQL["close_run"], parameters)


def find(url: str, run_id: str) -> StoredRun | None:
    """Return a run, or None if no run has this id."""
    with connect(url, _APPLICATION) as connection:
        row = connection.execute(_SQL["run"], {"run_id": run_id}).fetchone()
    return None if row is None else StoredRun(**row)


def record_disturbance(
    url: str,
    *,
    at: datetime,
    action: str,
    component: str,
    run_id: str | None = None,
    is_planned: bool = False,
    time_budget_seconds: float,
) -> None:
    """Store one disturbance. `is_planned`: the load test `run_id` made it.

    Retry for `time_budget_seconds`, because the component may be PostgreSQL; then raise DatabaseError.
    """
    retry_until = time.monotonic() + time_budget_seconds
    parameters = {
        "at": at, "component": component, "action": action, "run_id": run_id, "is_planned": is_planned
    }  # fmt: skip
    while True:
        try:
            with connect(url, "disturbances") as connection:
                connection.execute(_SQL["record_disturbance"], parameters)
        except DatabaseError:
            if time.monotonic() > retry_until:
                raise
            time.sleep(DISTURBANCE_RETRY_SECONDS)
        else:
            return
