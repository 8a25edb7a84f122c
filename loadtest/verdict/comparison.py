"""Comparison of two runs: better, worse, or no difference shown.

Consecutive orders meet the same queues and disturbances, so their times are autocorrelated. A run of
autocorrelated orders counts as a smaller number of independent ones, measured with batch means: the closed
form of a block bootstrap whose blocks do not overlap (B. W. Schmeiser, Operations Research 30 (1982)
556-568). With that number, the share of orders up to a percentile, and the share of late orders, have Wilson
intervals; the first gives the interval of the percentile (R. S. Woodruff, JASA 47 (1952) 635-646). Intervals
of both runs are combined into that of the difference (R. G. Newcombe, Statistics in Medicine 17 (1998)
873-890, method 10), which is correct for shares near zero.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from statistics import variance
from typing import NamedTuple

from db import runs
from db.read_models.percentiles import percentile
from db.read_models.stored_runs import RunTimes
from loadtest.chaos.disturbance import PlannedDisturbance
from loadtest.verdict.percentiles import PERCENTILES
from loadtest.verdict.schema import schema_problem
from orchestrator.rest_client import Json

BLOCKS = 20
"""Blocks of consecutive orders in a run. Schmeiser recommends 10 to 30. Of 300 pairs of equal simulated runs
of 2,000 orders, 1.7 % were found different with an autocorrelation of 0.95 between consecutive orders, and
5.7 % with 0.98."""

CRITICAL = 2.861
"""Quantile of Student's t distribution with BLOCKS - 1 degrees of freedom, for an interval of 99 %. Each of
the five intervals has 99 %, so that all of them hold together with 95 % (Bonferroni)."""

MIN_TAIL_ORDERS = 10
"""With fewer orders above a percentile, a few of them decide its value: p99 needs 1,000 orders."""

_COMPARED = {name: share for name, share in PERCENTILES.items() if name != "max"}
"""The maximum of a sample has no useful interval."""

NO_DIFFERENCE = "no difference shown"
TOO_FEW = "too few orders"
ASSUMPTIONS = (
    "99 % intervals. They include autocorrelation over up to 5 % of a run, and do not include the variation "
    "between repeated runs of the same setup: repeat both runs to see it"
)


class Estimate(NamedTuple):
    """A measured value with its interval."""

    value: float
    low: float
    high: float


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
    baseline_times = times_of(baseline)
    for each, id_ in ((baseline_times, baseline_id), (times, run.run_id)):
        if not each.finished_ms:
            return found | {"problem": f"run {id_} has no finished orders"}
    return (
        found | {"setup_differences": setup_differences(run, baseline)} | compare_times(times, baseline_times)
    )


def times_of(run: runs.StoredRun) -> RunTimes:
    """Return the times of a stored run."""
    return RunTimes.of(run.completion_ms, run.late_orders, run.counted_orders, run.options.get("slo_seconds"))


def setup_differences(run: runs.NewRun, baseline: runs.NewRun) -> list[str]:
    """Return one text for each way in which the two runs were not the same test."""
    setup, other = _setup(run), _setup(baseline)
    return [
        f"{name} {value or 'unknown'} (baseline {other[name] or 'unknown'})"
        for name, value in setup.items()
        if value != other[name]
    ]


def compare_times(run: RunTimes, baseline: RunTimes) -> Json:
    """Compare completion times and late shares: differences (run less baseline) with their intervals.

    `verdict` summarizes all differences.
    """
    independent, baseline_independent = _independent_orders(run), _independent_orders(baseline)
    percentiles = {
        name: _comparison(
            _percentile(run, share, independent),
            _percentile(baseline, share, baseline_independent),
            orders_needed=math.ceil(MIN_TAIL_ORDERS / (1 - share) - 1e-9),
            orders=min(len(run.finished_ms), len(baseline.finished_ms)),
        )
        for name, share in _COMPARED.items()
    }
    late_share = _comparison(_late_share(run, independent), _late_share(baseline, baseline_independent))
    verdicts = {each["verdict"] for each in (*percentiles.values(), late_share)} - {NO_DIFFERENCE, TOO_FEW}
    return {
        "completion_ms": percentiles,
        "late_share": late_share,
        "verdict": verdicts.pop() if len(verdicts) == 1 else ("mixed" if verdicts else NO_DIFFERENCE),
        "assumptions": ASSUMPTIONS,
    }


def comparison_text(comparison: Json) -> str:
    """Return a comparison in one line: the differences with their intervals, or why there are none."""
    if comparison.get("problem"):
        return f"not compared: {comparison['problem']}"
    parts = [comparison["verdict"]]
    if comparison.get("setup_differences"):
        parts[0] += f" (not the same test: {' · '.join(comparison['setup_differences'])})"
    for name, found in comparison["completion_ms"].items():
        if found["low"] is None:
            interval = f"(each run needs {found['orders_needed']} finished orders)"
        else:
            interval = f"[{found['low']:+.0f}, {found['high']:+.0f}]"
        parts.append(f"{name} {found['difference']:+.0f} ms {interval} {found['verdict']}")
    late = comparison["late_share"]
    interval = f"[{late['low']:+.3%}, {late['high']:+.3%}]"
    parts.append(f"late {late['difference']:+.3%} {interval} {late['verdict']}")
    if assumptions := comparison.get("assumptions"):
        parts.append(assumptions)
    return "; ".join(parts)


def difference(run: Estimate, baseline: Estimate) -> Estimate:
    """Return run less baseline, with Newcombe's interval."""
    value = run.value - baseline.value
    return Estimate(
        value,
        value - math.sqrt((run.value - run.low) ** 2 + (baseline.high - baseline.value) ** 2),
        value + math.sqrt((run.high - run.value) ** 2 + (baseline.value - baseline.low) ** 2),
    )


def independent_orders(flags: Sequence[bool]) -> float:
    """Return the number of independent orders that would show the share of true flags as precisely.

    `flags` are in order of time. At most their number.
    """
    n, share = len(flags), sum(flags) / len(flags)
    if n < BLOCKS or share in (0, 1):
        return n
    edges = [n * k // BLOCKS for k in range(BLOCKS + 1)]
    block_shares = [sum(flags[begin:end]) / (end - begin) for begin, end in pairwise(edges)]
    variance_of_share = max(variance(block_shares) / BLOCKS, share * (1 - share) / n)
    return share * (1 - share) / variance_of_share


def _setup(run: runs.NewRun) -> dict[str, str | None]:
    stages = []
    for stage in run.stages:
        ramp = "" if stage["end_rate"] == stage["rate"] else f"..{stage['end_rate']:g}"
        stages.append(f"{stage['seconds']:g}s@{stage['rate']:g}{ramp}")
    chaos = (str(PlannedDisturbance(**each)) for each in run.options.get("chaos", []))
    return {
        "scenario": run.scenario,
        "load": f"{run.options.get('arrivals', '')} {','.join(stages)}".strip(),
        "limit": f"{run.options['slo_seconds']:g} s" if "slo_seconds" in run.options else None,
        "faults": f"{run.fault_profile} (seed {run.fault_seed})",
        "chaos": ", ".join(chaos) or "none",
        "commit": run.commit_hash,
    }


def _comparison(run: Estimate, baseline: Estimate, *, orders_needed: int = 0, orders: int = 0) -> Json:
    """Return the difference; without an interval when there are fewer `orders` than needed."""
    value, low, high = difference(run, baseline)
    found: Json = {"run": run.value, "baseline": baseline.value, "difference": value}
    if orders < orders_needed:
        return found | {"low": None, "high": None, "verdict": TOO_FEW, "orders_needed": orders_needed}
    # Smaller is better, for times and late shares alike.
    verdict = "better" if high < 0 else "worse" if low > 0 else NO_DIFFERENCE
    return found | {"low": low, "high": high, "verdict": verdict}


def _independent_orders(times: RunTimes) -> float:
    """Return the smallest number of independent orders of all compared measures.

    The number of a rare event alone, such as a late order, would be too uncertain: a few bursts decide it.
    """
    limits = [*(percentile(times.finished_ms, share) for share in _COMPARED.values()), times.limit_ms]
    return min(
        independent_orders([ms is None or ms > limit for ms in times.completion_ms]) for limit in limits
    )


def _percentile(times: RunTimes, share: float, independent: float) -> Estimate:
    ordered = times.finished_ms
    low, high = wilson(share, independent)
    return Estimate(percentile(ordered, share), percentile(ordered, low), percentile(ordered, high))


def _late_share(times: RunTimes, independent: float) -> Estimate:
    share = times.late / max(times.orders, 1)
    return Estimate(share, *wilson(share, independent))


def wilson(share: float, orders: float, critical: float = CRITICAL) -> tuple[float, float]:
    """Return the Wilson interval of a share of independent orders."""
    spread = critical**2 / orders
    centre = (share + spread / 2) / (1 + spread)
    half = critical * math.sqrt(share * (1 - share) / orders + spread / (4 * orders)) / (1 + spread)
    # Rounding must not move a share of exactly 0 or 1 out of its interval.
    return max(min(centre - half, share), 0.0), min(max(centre + half, share), 1.0)
