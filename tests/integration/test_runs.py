"""Load tests that have not ended."""

from datetime import UTC, datetime, timedelta

import pytest

from db import runs
from db.runs import SILENT_SECONDS, NewRun
from tests.orders import OrderDriver, new_order

DRAIN_SECONDS = 30.0


def begin(url: str, run_id: str, *, ago: timedelta) -> None:
    options = {"faults_since": run_id, "drain_seconds": DRAIN_SECONDS}
    began = datetime.now(UTC) - ago
    run = NewRun(run_id, "start-only", options, [], "assignment", 1, began, None, {})
    assert runs.open_run(url, run)


@pytest.mark.parametrize("margin", [-10.0, 10.0])
async def test_an_aborted_run_no_longer_owns_the_fault_profile(order_database_url, repository, pool, margin):
    run_id = f"silent-{margin:.0f}"
    begin(order_database_url, run_id, ago=timedelta(seconds=SILENT_SECONDS + DRAIN_SECONDS + margin))
    assert runs.run_that_set_faults(order_database_url, run_id) == (run_id if margin < 0 else None)
    await OrderDriver(repository, pool).open(new_order(run_id=run_id))
    assert runs.run_that_set_faults(order_database_url, run_id) == run_id, "the run has just started an order"
