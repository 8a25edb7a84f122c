"""Comparison of two runs: better, worse, or no difference shown.

Differences of percentiles have bootstrap intervals (percentile method: B. Efron, Annals of Statistics 7
(1979) 1-26). The difference of two late shares has a Newcombe interval (R. G. Newcombe, Statistics in
Medicine 17 (1998) 873-890, method 10), which is correct for shares near zero, where a bootstrap of zero late
orders would claim certainty.
"""

import math
from collections.abc import Sequence
from random import Random
from statistics import NormalDist
from typing import Any

from db import runs
from db.read_models.stored_runs import RunTimes
from loadtest.chaos.disturbance import PlannedDisturbance
from loadtest.verdict.percentiles import PERCENTILES, percentile
from loadtest.verdict.schema import schema_problem

RESAMPLES = 4_000
CONFIDENCE = 0.99
"""Of each of the five intervals, so that all of them hold together with 95 % (Bonferroni)."""

NO_DIFFERENCE = "no difference shown"

Json = dict[str, Any]


def compare_runs(
    run: runs.NewRun, times: RunTimes, baseline_id: str, baseline: runs.StoredRun | None
) -> Json:
    """Compare a run and its times with a stored baseline (None: not found).

    `problem` says why the runs cannot be compared, else it is None.
    """
    found: Json = {"baseline": baseline_id, "problem": None}
    if baseline is None:
        return found | {"problem": f"run {baseline_id} does not exist"}
    for stored in (run, baseline):
        problem = schema_problem(stored.verdict or {}) if isinstance(stored, runs.StoredRun) else None
        if problem is not None:
            return found | {"problem": problem}
    if not baseline.completion_ms or not times.completion_ms:
        unfinished = run.run_id if baseline.completion_ms else baseline_id
        return found | {"problem": f"run {unfinished} has no finished orders"}
    return (
        found
        | {"setup_differences": setup_differences(run, baseline)}
        | compare_times(times, times_of(baseline))
    )


def times_of(run: runs.StoredRun) -> RunTimes:
    """Return the times of a stored run."""
    completion_ms = run.completion_ms or []
    return RunTimes(completion_ms, run.late_orders or 0, run.counted_orders or len(completion_ms))


def setup_differences(run: runs.NewRun, baseline: runs.StoredRun) -> list[str]:
    """Return one text for each way in which the two runs were not the same test."""
    setup, other = _setup(run), _setup(baseline)
    return [
        f"{name} {value or 'unknown'} (baseline {other[name] or 'unknown'})"
        for name, value in setup.items()
        if value != other[name]
    ]


def compare_times(run: RunTimes, baseline: RunTimes) -> Json:
    """Compare completion times and late shares: differences (run less baseline) with their intervals.

    `verdict` summarizes all of them.
    """
    random = Random(1)
    run_ms, baseline_ms = sorted(run.completion_ms), sorted(baseline.completion_ms)
    percentiles = {}
    for name, share in PERCENTILES.items():
        if name == "max":
            # The maximum of a sample has no useful bootstrap distribution.
            continue
        pairs = zip(_bootstrap(run_ms, share, random), _bootstrap(baseline_ms, share, random), strict=True)
        differences = sorted(a - b for a, b in pairs)
        tail = (1 - CONFIDENCE) / 2
        interval = percentile(differences, tail), percentile(differences, 1 - tail)
        percentiles[name] = _comparison(percentile(run_ms, share), percentile(baseline_ms, share), interval)
    late_share = _comparison(
        run.late / max(run.orders, 1),
        baseline.late / max(baseline.orders, 1),
        late_share_interval((run.late, run.orders), (baseline.late, baseline.orders)),
    )
    words = {each["verdict"] for each in (*percentiles.values(), late_share)} - {NO_DIFFERENCE}
    return {
        "completion_ms": percentiles,
        "late_share": late_share,
        "verdict": words.pop() if len(words) == 1 else ("mixed" if words else NO_DIFFERENCE),
    }


def comparison_text(comparison: Json) -> str:
    """Return a comparison in one line: the differences with their 99 % intervals, or why there are none."""
    if comparison.get("problem"):
        return f"not compared: {comparison['problem']}"
    parts = [comparison["verdict"]]
    if comparison.get("setup_differences"):
        parts[0] += f" (not the same test: {' · '.join(comparison['setup_differences'])})"
    for name, found in comparison["completion_ms"].items():
        interval = f"[{found['low']:+.0f}, {found['high']:+.0f}]"
        parts.append(f"{name} {found['difference']:+.0f} ms {interval} {found['verdict']}")
    late = comparison["late_share"]
    interval = f"[{late['low']:+.3%}, {late['high']:+.3%}]"
    parts.append(f"late {late['difference']:+.3%} {interval} {late['verdict']}")
    return "; ".join(parts)


def late_share_interval(
    run: tuple[int, int], baseline: tuple[int, int], confidence: float = CONFIDENCE
) -> tuple[float, float]:
    """Return Newcombe's interval of the difference of two shares, each as (late, orders)."""
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    (p1, low1, high1), (p2, low2, high2) = _wilson(*run, z), _wilson(*baseline, z)
    difference = p1 - p2
    return (
        difference - math.sqrt((p1 - low1) ** 2 + (high2 - p2) ** 2),
        difference + math.sqrt((high1 - p1) ** 2 + (p2 - low2) ** 2),
    )


def _setup(run: runs.NewRun) -> dict[str, str | None]:
    stages = []
    for stage in run.stages:
        ramp = "" if stage["end_rate"] == stage["rate"] else f"..{stage['end_rate']:g}"
        stages.append(f"{stage['seconds']:g}s@{stage['rate']:g}{ramp}")
    chaos = (str(PlannedDisturbance(**each)) for each in run.options.get("chaos", []))
    return {
        "scenario": run.scenario,
        "load": f"{run.options.get('arrivals', '')} {','.join(stages)}".strip(),
        "faults": f"{run.fault_profile} (seed {run.fault_seed})",
        "chaos": ", ".join(chaos) or "none",
        "commit": run.commit_hash,
    }


def _comparison(run: float, baseline: float, interval: tuple[float, float]) -> Json:
    low, high = interval
    return {
        "run": run,
        "baseline": baseline,
        "difference": run - baseline,
        "low": low,
        "high": high,
        # Smaller is better, for times and late shares alike.
        "verdict": "better" if high < 0 else "worse" if low > 0 else NO_DIFFERENCE,
    }


def _wilson(late: int, orders: int, z: float) -> tuple[float, float, float]:
    """Return a share and its Wilson interval."""
    if orders == 0:
        return 0.0, 0.0, 1.0
    share, spread = late / orders, z**2 / orders
    centre = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / orders + spread / (4 * orders)) / (1 + spread)
    # Rounding must not push a share of exactly 0 or 1 out of its own interval.
    return share, max(min(centre - half, share), 0.0), min(max(centre + half, share), 1.0)


def _bootstrap(ordered: Sequence[float], share: float, random: Random) -> list[float]:
    """Return a percentile of sorted values in RESAMPLES resamples, drawn with replacement.

    The resamples are not built: the k-th smallest of n uniform draws is Beta(k, n - k + 1) distributed and
    selects the same value from the sorted ones as the resample would.
    """
    n = len(ordered)
    k = max(math.ceil(share * n), 1)
    return [ordered[min(int(random.betavariate(k, n - k + 1) * n), n - 1)] for _ in range(RESAMPLES)]
