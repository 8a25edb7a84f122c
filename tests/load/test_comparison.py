"""Comparison of two runs."""

import math
import time
from random import Random
from typing import Any

import pytest

from db.read_models.stored_runs import RunTimes
from db.runs import StoredRun
from loadtest.options import RunOptions
from loadtest.verdict import comparison
from loadtest.verdict.comparison import (
    Estimate,
    compare_runs,
    compare_times,
    comparison_text,
    difference,
    times_of,
    wilson,
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
        ({"given": {"slo_seconds": 3.9}}, ["limit 15 s (baseline 3.9 s)"]),
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


def autocorrelated(seed: int, orders: int = 2_000, correlation: float = 0.95) -> RunTimes:
    """Return a run whose consecutive completion times, of 3 s in the median, have this correlation."""
    random = Random(seed)
    level, innovation = random.gauss(0, 1), math.sqrt(1 - correlation**2)
    times: list[int | None] = []
    for _ in range(orders):
        level = correlation * level + innovation * random.gauss(0, 1)
        times.append(round(3_000 * math.exp(0.4 * level)))
    return RunTimes(times, sum(each is not None and each > 7_000 for each in times), orders, 7_000)


def differing(pairs: int) -> int:
    """Return in how many pairs of equal runs a difference is found."""
    found = (compare_times(autocorrelated(2 * n), autocorrelated(2 * n + 1)) for n in range(pairs))
    return sum(each["verdict"] != "no difference shown" for each in found)


def test_equal_runs_of_autocorrelated_orders_are_rarely_found_different(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert differing(60) <= 6, "at most 3 are expected, 7 or more would happen once in 30"
    monkeypatch.setattr(comparison, "_independent_orders", lambda times: len(times.completion_ms))
    assert differing(20) > 10, "taken as independent orders, most pairs differ"


def test_equal_runs_of_independent_orders_are_rarely_found_different() -> None:
    wrong = sum(
        compare_times(sample(2 * seed, 3_000, 400), sample(2 * seed + 1, 3_000, 400))["verdict"]
        != "no difference shown"
        for seed in range(100)
    )
    assert wrong <= 6


def test_a_difference_is_found_despite_autocorrelation() -> None:
    run, baseline = autocorrelated(1, 6_000, 0.9), autocorrelated(2, 6_000, 0.9)
    slower = RunTimes([each and round(1.4 * each) for each in run.completion_ms], 0, 6_000)
    assert compare_times(slower, baseline)["completion_ms"]["p50"]["verdict"] == "worse"


@pytest.mark.parametrize(
    ("orders", "too_few"),
    [(19, ["p50", "p90", "p95", "p99"]), (100, ["p95", "p99"]), (999, ["p99"]), (1_000, [])],
)
def test_a_percentile_with_fewer_than_ten_orders_above_it_is_not_judged(
    orders: int, too_few: list[str]
) -> None:
    fast, slow = sample(1, 1_000, orders), sample(2, 9_000, 2_000)
    found = compare_times(fast, slow)
    assert [
        name for name, each in found["completion_ms"].items() if each["verdict"] == "too few orders"
    ] == too_few
    assert found["completion_ms"]["p99"]["difference"] < 0
    if too_few:
        assert "(each run needs 1000 finished orders) too few orders" in comparison_text(found)


def test_a_burst_of_late_orders_counts_as_few_independent_ones() -> None:
    spread = RunTimes([16_000 if n % 50 == 0 else 1_000 for n in range(2_000)], 40, 2_000, 15_000)
    burst = RunTimes([16_000 if 500 <= n < 540 else 1_000 for n in range(2_000)], 40, 2_000, 15_000)
    lost = RunTimes([None if 500 <= n < 540 else 1_000 for n in range(2_000)], 40, 2_000, 15_000)
    none = RunTimes([1_000] * 2_000, 0, 2_000, 15_000)
    alone, together = (compare_times(run, none)["late_share"] for run in (spread, burst))
    assert alone["difference"] == together["difference"] == 0.02
    assert 0 < together["low"] < alone["low"] / 4
    assert together["high"] > 2 * alone["high"]
    assert compare_times(lost, none)["late_share"] == together


def test_a_comparison_states_its_assumptions() -> None:
    text = comparison_text(compare_times(sample(1, 3_000), sample(2, 3_000)))
    assert "do not include the variation between repeated runs" in text


def test_comparing_50_000_orders_takes_less_than_2_s() -> None:
    run, baseline = sample(1, 3_000, 50_000), sample(2, 3_010, 50_000)
    began = time.process_time()
    compare_times(run, baseline)
    assert time.process_time() - began < 2


def test_zero_late_orders_have_an_interval_around_zero() -> None:
    found = compare_times(sample(1, 3_000), sample(2, 3_000))["late_share"]
    assert found["low"] < 0 < found["high"]


def test_the_interval_of_a_difference_is_that_of_newcombe() -> None:
    # R. G. Newcombe 1998, table II: 56/70 against 48/80, method 10.
    run = Estimate(56 / 70, *wilson(56 / 70, 70, critical=1.959964))
    baseline = Estimate(48 / 80, *wilson(48 / 80, 80, critical=1.959964))
    assert difference(run, baseline) == pytest.approx((0.2, 0.0524, 0.3339), abs=5e-5)
