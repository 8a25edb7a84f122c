"""Comparison of two runs."""

import time
from random import Random
from typing import Any

import pytest

from db.read_models.stored_runs import RunTimes
from db.runs import StoredRun
from loadtest.options import RunOptions
from loadtest.verdict import comparison
from loadtest.verdict.comparison import (
    compare_runs,
    compare_times,
    comparison_text,
    late_share_interval,
    times_of,
)


def sample(seed: int, mean: float, orders: int = 2_000, late: int = 0) -> RunTimes:
    random = Random(seed)
    return RunTimes([round(random.gauss(mean, 300)) for _ in range(orders)], late, orders)


def test_better_worse_and_no_difference_shown() -> None:
    baseline = sample(1, 3_000)
    assert compare_times(sample(2, 3_000), baseline)["verdict"] == "no difference shown"
    assert compare_times(sample(2, 3_200), baseline)["verdict"] == "worse"
    assert compare_times(sample(2, 2_800), baseline)["verdict"] == "better"
    late = compare_times(sample(2, 3_000, late=60), baseline)
    assert late["late_share"]["verdict"] == "worse"
    assert late["late_share"]["difference"] == pytest.approx(0.03)


def stored(**known: Any) -> StoredRun:
    nothing = dict.fromkeys(StoredRun.__dataclass_fields__)
    options = RunOptions.parse({"run_id": "r", "rate": 10, "duration": "40s"} | known.pop("given", {}))
    given = options.to_json()
    usual = {"scenario": given["scenario"], "stages": given["stages"], "options": given,
             "fault_profile": "assignment", "fault_seed": 1, "commit_hash": "abc"}  # fmt: skip
    return StoredRun(**(nothing | usual | known))


@pytest.mark.parametrize(
    ("baseline", "differences"),
    [
        ({}, []),
        ({"given": {"scenario": "start-only"}}, ["scenario mixed (baseline start-only)"]),
        ({"given": {"rate": 20}}, ["load constant 40s@10 (baseline constant 40s@20)"]),
        ({"given": {"arrivals": "poisson"}}, ["load constant 40s@10 (baseline poisson 40s@10)"]),
        ({"given": {"chaos": "5s kill api"}}, ["chaos none (baseline 5s kill api)"]),
        ({"fault_profile": "none"}, ["faults assignment (seed 1) (baseline none (seed 1))"]),
        ({"commit_hash": None}, ["commit abc (baseline unknown)"]),
    ],
)
def test_a_comparison_lists_setup_differences(baseline: dict[str, Any], differences: list[str]) -> None:
    run = stored(completion_ms=[1], counted_orders=1)
    other = stored(completion_ms=[2], counted_orders=1, **baseline)
    found = compare_runs(run, times_of(run), "earlier", other)
    assert (found["problem"], found["setup_differences"]) == (None, differences)
    assert ("not the same test" in comparison_text(found)) is bool(differences)


def test_runs_without_finished_orders_are_not_compared() -> None:
    run = stored(run_id="now", completion_ms=[1])
    for times, baseline, problem in (
        (times_of(run), None, "run earlier does not exist"),
        (times_of(run), stored(), "run earlier has no finished orders"),
        (RunTimes([], 0, 5), run, "run now has no finished orders"),
    ):
        found = compare_runs(run, times, "earlier", baseline)
        assert found["problem"] == problem
        assert comparison_text(found) == f"not compared: {problem}"


def test_intervals_have_their_stated_confidence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "RESAMPLES", 1_000)
    held = wrong = 0
    for seed in range(100):
        found = compare_times(sample(2 * seed, 3_000, 400), sample(2 * seed + 1, 3_000, 400))
        p50 = found["completion_ms"]["p50"]
        held += p50["low"] <= 0 <= p50["high"]
        wrong += found["verdict"] != "no difference shown"
    assert held >= 95, "99 are expected; fewer than 95 would happen once in 300"
    assert wrong <= 6, "with intervals of 95 % for each difference it would be about nine"


def test_comparing_50_000_orders_takes_less_than_2_s() -> None:
    run, baseline = sample(1, 3_000, 50_000), sample(2, 3_010, 50_000)
    began = time.process_time()
    compare_times(run, baseline)
    assert time.process_time() - began < 2


def test_zero_late_orders_have_an_interval_around_zero() -> None:
    low, high = late_share_interval((0, 100), (0, 100))
    assert low < 0 < high
    # R. G. Newcombe 1998, table II: 56/70 against 48/80, method 10.
    assert late_share_interval((56, 70), (48, 80), confidence=0.95) == pytest.approx(
        (0.0524, 0.3339), abs=5e-5
    )
