"""How the bench judges; what it measures it measures at a size that no test has."""

import random
import sys

import pytest

from dashboard.bench import __main__ as bench
from dashboard.bench import pages, queries
from dashboard.bench.measures import Row, at_most
from dashboard.bench.queries import LIMIT_MS
from db.read_only_database import ReadOnlyDatabase
from loadtest.bench.seed import some_ids


def test_a_measure_is_judged_by_its_percentile():
    times = [float(n) for n in range(1, 101)]
    kept = at_most("m", times, 95, "ms", share=0.95)
    assert kept == Row("m", "p50 50.5, p95 95.0, max 100.0 ms", "p95 ≤ 95 ms", is_kept=True)
    assert not at_most("m", times, 94, "ms", share=0.95).is_kept
    assert not at_most("m", times, 99, "ms").is_kept, "the largest of all"
    assert at_most("m", [7.4], 500, "MB").value == "7 MB"


@pytest.mark.parametrize(("is_kept", "code"), [(True, 0), (None, 0), (False, 3)])
def test_a_missed_target_is_an_exit_code(monkeypatch, capsys, is_kept, code):
    monkeypatch.setattr(sys, "argv", ["bench"])
    monkeypatch.setenv("DATABASE_URL", "postgresql://somebody@127.0.0.1/orders")
    monkeypatch.setattr(bench, "_database", lambda *_: "")
    monkeypatch.setattr(bench, "seed_now", lambda *_, **__: None)
    monkeypatch.setattr(bench, "_measures", lambda *_: [Row("speed", "7", "≤ 5", is_kept)])
    assert bench.main() == code
    told = capsys.readouterr()
    assert "| speed | 7 | ≤ 5 |" in told.out
    assert ("missed its target: speed" in told.err) == (code == 3)


def test_every_query_and_view_is_drawn_from_the_whole_history(
    seeded: ReadOnlyDatabase, seeded_url: str, monkeypatch
):
    monkeypatch.setattr(queries, "ROUNDS", 2)
    ids = some_ids(seeded_url, 200)
    assert len({order_id.rpartition("-")[0] for order_id in ids}) == 2, "of both days"
    rows = list(queries.rows(seeded, ids, lambda _: None))
    assert all(row.target == f"p95 ≤ {LIMIT_MS:g} ms" for row in rows)
    shown = " ".join(row.measure for row in rows)
    for part in ("order page", "orders: older", "failed ones of a run", "times of a run", "under faults"):
        assert part in shown
    views = pages.some_views(seeded, ids, random.Random(1))
    assert {page for page, _ in views.values()} == {
        "", "orders", "reviews", "latency", "load_tests", "audit",
    }  # fmt: skip
