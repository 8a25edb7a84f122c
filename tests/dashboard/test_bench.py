"""The benchmark of the dashboard: comparison with targets, exit codes, and coverage of queries and views."""

import sys
from random import Random

import pytest

from db.read_only_database import ReadOnlyDatabase
from loadtest.bench.harness import Measurement
from loadtest.bench.seed import random_order_ids
from tests.bench import __main__ as bench
from tests.bench import pages, queries
from tests.bench.measures import at_most
from tests.bench.queries import LIMIT_MS


def test_a_percentile_is_compared_with_its_limit():
    times = [float(n) for n in range(1, 101)]
    met = at_most("m", times, 95, "ms", share=0.95)
    assert met == Measurement("m", "p50 50.5, p95 95.0, max 100.0 ms", "p95 ≤ 95 ms", is_met=True)
    assert not at_most("m", times, 94, "ms", share=0.95).is_met
    assert not at_most("m", times, 99, "ms").is_met, "by default the maximum is compared"
    assert at_most("m", [7.4], 500, "MB").value == "7 MB"


@pytest.mark.parametrize(("is_met", "code"), [(True, 0), (None, 0), (False, 3)])
def test_exit_code_of_a_missed_target(monkeypatch, capsys, is_met, code):
    monkeypatch.setattr(sys, "argv", ["bench"])
    monkeypatch.setenv("DATABASE_URL", "postgresql://user@127.0.0.1/orders")
    monkeypatch.setattr(bench, "seeded_database", lambda *_: "")
    monkeypatch.setattr(bench, "seed_recent", lambda *_, **__: None)
    monkeypatch.setattr(bench, "measurements", lambda *_: [Measurement("speed", "7", "≤ 5", is_met)])
    assert bench.main() == code
    captured = capsys.readouterr()
    assert "| speed | 7 | ≤ 5 |" in captured.out
    assert ("missed its target: speed" in captured.err) == (code == 3)


def test_queries_and_views_use_orders_of_the_whole_history(
    seeded: ReadOnlyDatabase, seeded_url: str, monkeypatch
):
    monkeypatch.setattr(queries, "ROUNDS", 2)
    order_ids = random_order_ids(seeded_url, 200)
    assert len({order_id.rpartition("-")[0] for order_id in order_ids}) == 2, "of both days"
    measurements = list(queries.measure(seeded, order_ids, lambda _: None))
    assert all(each.target == f"p95 ≤ {LIMIT_MS:g} ms" for each in measurements)
    names = " ".join(each.measure for each in measurements)
    for part in ("order page", "orders: older", "failed, of a run", "times of a run", "under faults"):
        assert part in names
    views = pages.random_views(seeded, order_ids, Random(1))
    assert {page for page, _ in views.values()} == {
        "", "orders", "reviews", "latency", "load_tests", "audit", "stage",
    }  # fmt: skip
