"""Load tests that have not ended, and the fault profile that they leave behind."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from db import queries, runs
from db.database import connect
from db.runs import SILENT_SECONDS, NewRun, RunResult
from orchestrator.embedded import Stack
from orchestrator.rfc3339 import format_rfc3339
from orchestrator.settings import Settings
from tests.orders import OrderDriver, new_order

DRAIN_SECONDS = 30.0
_FAULTS = queries.load("fault_profiles.sql")


def begin(url: str, run_id: str, *, ago: timedelta, **faults: Any) -> None:
    options = {"faults_since": run_id, "drain_seconds": DRAIN_SECONDS} | faults
    began = datetime.now(UTC) - ago
    run = NewRun(run_id, "start-only", options, [], "assignment", 1, began, None, {})
    assert runs.open_run(url, run)


@pytest.mark.parametrize("margin", [-10.0, 10.0])
async def test_a_run_owns_the_fault_profile_until_it_counts_as_aborted(
    order_database_url, repository, pool, margin
):
    run_id = f"silent-{margin:.0f}"
    begin(order_database_url, run_id, ago=timedelta(seconds=SILENT_SECONDS + DRAIN_SECONDS + margin))
    assert runs.run_that_set_faults(order_database_url, run_id) == (run_id if margin < 0 else None)
    await OrderDriver(repository, pool).open(new_order(run_id=run_id))
    assert runs.run_that_set_faults(order_database_url, run_id) == run_id, "the run has just started an order"


def set_faults(url: str, profile: str) -> str:
    """Set a fault profile as the API does. Return its time as the API does."""
    with connect(url, "tests") as connection:
        row = connection.execute(
            "insert into fault_changes (profile, seed, rates) values (%s, 3, '{}') returning at", (profile,)
        ).fetchone()
    assert row is not None
    return format_rfc3339(row["at"])


def active_faults(url: str) -> tuple[str, int, dict[str, Any]]:
    with connect(url, "tests") as connection:
        row = connection.execute(_FAULTS["current_faults"]).fetchone()
    assert row is not None
    return row["profile"], row["seed"], row["rates"]


@pytest.mark.parametrize("has_ended", [False, True])
def test_the_faults_of_a_killed_run_are_restored(order_database_url: str, tmp_path: Path, has_ended: bool):
    url, run_id = order_database_url, f"killed-{has_ended}"
    before = {"profile": "custom", "seed": 9, "rates": {"default": {"error_rate": 0.5}}, "since": None}
    begin(url, run_id, ago=timedelta(0), faults_since=set_faults(url, "slow"), faults_before=before)
    assert runs.restore_faults(url) is None, "it is running"
    if has_ended:
        runs.close_run(url, run_id, RunResult(datetime.now(UTC), [], {}, [], [], 0, 0))
    else:
        with connect(url, "tests") as connection:
            statement = "update runs set started_at = now() - interval '1 hour' where run_id = %s"
            connection.execute(statement, (run_id,))
    messages: list[str] = []
    Stack(Settings(orders_home=tmp_path, database_url=url))._restore_faults(messages.append)
    assert messages == [f"the fault profile is custom again; load test {run_id} had not restored it"]
    assert active_faults(url) == ("custom", 9, before["rates"])
    assert runs.restore_faults(url) is None


def test_faults_that_were_changed_after_a_killed_run_stay(order_database_url: str):
    url = order_database_url
    begin(url, "changed", ago=timedelta(hours=1), faults_since=set_faults(url, "slow"), faults_before={})
    set_faults(url, "lossy")
    assert runs.restore_faults(url) is None
    assert active_faults(url)[0] == "lossy"
