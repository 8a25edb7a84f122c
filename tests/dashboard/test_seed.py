"""The seeded history: consistent, and shaped like a real one."""

import pytest

from db.database import Database
from db.maintenance.audit import audit_database
from db.read_models import latency, step_times, stored_runs
from db.read_models.latency import Selection
from loadtest.bench.seed import seed, seed_recent
from tests.dashboard.conftest import SEEDED, query, reader_of


async def test_a_seeded_history_passes_the_audit(seeded_url):
    async with Database(seeded_url) as database:
        report = await audit_database(database)
    assert (report.finished, report.open_orders, report.violations) == (SEEDED, [], [])


def test_a_seeded_history_has_twelve_events_per_order_and_no_active_faults(seeded_url, seeded):
    (events,) = query(seeded_url, "select count(*) as n from events")
    assert events["n"] / SEEDED == pytest.approx(12, abs=0.5)
    assert latency.active_faults(seeded).profile == "none"


def test_seeded_runs_have_exact_times(seeded, seeded_url):
    runs = stored_runs.newest_runs(seeded, 100)
    assert len(runs) == 8
    times = stored_runs.times(seeded, runs[0]["run_id"])
    truth = query(
        seeded_url,
        "select completion_ms from orders where run_id = %(r)s order by 1",
        {"r": runs[0]["run_id"]},
    )
    assert times.finished_ms == [row["completion_ms"] for row in truth]
    assert stored_runs.times(seeded, "unknown") is None
    assert stored_runs.running_runs(seeded) == []
    assert len(stored_runs.newest_runs(seeded, 3)) == 3
    assert sum(latency.summary(seeded, latency.plan(seeded, Selection())).outcomes.values()) == SEEDED


def test_recent_orders_are_replaced_with_their_events(postgres):
    with postgres.fresh_database() as url:
        seed(url, 50, days=1, progress=lambda _: None)
        before = query(url, "select count(*) as n from events")[0]["n"]
        for _ in range(2):
            seed_recent(url, finished=20, running=2)
        assert query(url, "select count(*) as n from events")[0]["n"] == before + 20 * 12
        reader = reader_of(url)
        rows = step_times.newest(reader, limit=20)
        reader.close()
    for row in rows:
        assert row["receive_end_ms"] < row["dispatch_end_ms"] < row["completion_ms"]
        assert row["charge_failures"] == 1
