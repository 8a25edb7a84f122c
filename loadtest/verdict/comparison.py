"""One run beside an earlier one: better, worse, or no difference shown.

Differences of percentiles have bootstrap intervals (percentile method: B. Efron, Annals of Statistics 7
(1979) 1-26); the difference of two late shares a Newcombe interval (R. G. Newcombe, Statistics in Medicine
17 (1998) 873-890, method 10), which holds for shares near zero, where a bootstrap of zero late orders would
claim certainty.
"""

import math
from collections.abc import Sequence
from random import Random
from statistics import NormalDist
from typing import Any

from db import runs
from loadtest.chaos.disturbance import Disturbance
from loadtest.verdict.percentiles import PERCENTILES, percentile
from loadtest.verdict.slo import LimitJudgement

RESAMPLES = 4_000
CONFIDENCE = 0.95
NO_DIFFERENCE = "no difference shown"

Json = dict[str, Any]


def compare_with(
    order_database_url: str,
    run_id: str,
    completion_ms: Sequence[int],
    limit: LimitJudgement,
    now: runs.NewRun,
) -> Json:
    """This run against the stored run `run_id`; `problem` says why when they cannot be compared, else it is
    None. Raises DatabaseUnavailable."""
    earlier = runs.find(order_database_url, run_id)
    if earlier is None:
        return {"with": run_id, "problem": f"there is no run {run_id} any more"}
    if not earlier.completion_ms or not completion_ms:
        which = run_id if completion_ms else now.run_id
        return {"with": run_id, "problem": f"no order of {which} was finished"}
    return {"with": run_id, "problem": None, "differences": differences(now, earlier)} | compare(
        completion_ms,
        (limit.late, limit.orders),
        earlier.completion_ms,
        (earlier.late_orders or 0, earlier.counted_orders or len(earlier.completion_ms)),
    )


def differences(now: runs.NewRun | runs.StoredRun, then: runs.StoredRun) -> list[str]:
    """In which respects the two were not the same test, in words; empty when they were."""
    told = []
    for what, mine, other in (
        ("scenario", now.scenario, then.scenario),
        ("load", _load(now), _load(then)),
        ("faults", _faults(now), _faults(then)),
        ("chaos", _chaos(now), _chaos(then)),
        ("commit", now.commit_hash, then.commit_hash),
    ):
        if mine != other:
            told.append(f"{what} {mine or 'unknown'}, then {other or 'unknown'}")
    return told


def _load(run: runs.NewRun | runs.StoredRun) -> str:
    stages = []
    for stage in run.stages:
        ramp = "" if stage["end_rate"] == stage["rate"] else f"..{stage['end_rate']:g}"
        stages.append(f"{stage['seconds']:g}s@{stage['rate']:g}{ramp}")
    return f"{run.options.get('arrivals', '')} {','.join(stages)}".strip()


def _faults(run: runs.NewRun | runs.StoredRun) -> str:
    return f"{run.fault_profile} (seed {run.fault_seed})"


def _chaos(run: runs.NewRun | runs.StoredRun) -> str:
    planned = run.options.get("chaos", [])
    return ", ".join(str(Disturbance(**each)) for each in planned) or "none"


def compare(
    now_ms: Sequence[float], now_late: tuple[int, int], then_ms: Sequence[float], then_late: tuple[int, int]
) -> Json:
    """Differences (now less then, ms and shares) with 95 % intervals and one word each. `*_late` are late
    orders of all orders.

    The one `verdict` looks at all of them, of which some would differ by chance more often than once in
    twenty times. So each has its say in it only with an interval that is wider in return (Bonferroni).
    """
    percentiles = {}
    random = Random(1)
    now_ms, then_ms = sorted(now_ms), sorted(then_ms)
    # The largest value of a sample has no bootstrap distribution to speak of.
    shares = {name: share for name, share in PERCENTILES.items() if name != "max"}
    together = 1 - (1 - CONFIDENCE) / (len(shares) + 1)
    words = set()
    for name, share in shares.items():
        pairs = zip(_bootstrap(now_ms, share, random), _bootstrap(then_ms, share, random), strict=True)
        differences = sorted(a - b for a, b in pairs)
        low, high = _interval(differences, CONFIDENCE)
        now, then = percentile(now_ms, share), percentile(then_ms, share)
        percentiles[name] = {
            "now": now, "then": then, "difference": now - then, "low": low, "high": high,
            "verdict": _word(low, high),
        }  # fmt: skip
        words.add(_word(*_interval(differences, together)))
    low, high = late_share_interval(now_late, then_late)
    late = {
        "now": now_late[0] / max(now_late[1], 1),
        "then": then_late[0] / max(then_late[1], 1),
        "low": low,
        "high": high,
        "verdict": _word(low, high),
    }
    words.add(_word(*late_share_interval(now_late, then_late, together)))
    words.discard(NO_DIFFERENCE)
    return {
        "completion_ms": percentiles,
        "late_share": late,
        "verdict": words.pop() if len(words) == 1 else ("mixed" if words else NO_DIFFERENCE),
    }


def late_share_interval(
    now: tuple[int, int], then: tuple[int, int], confidence: float = CONFIDENCE
) -> tuple[float, float]:
    """Newcombe's interval of the difference of two shares, each `late` of `orders`."""
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    (p1, low1, high1), (p2, low2, high2) = _wilson(*now, z), _wilson(*then, z)
    difference = p1 - p2
    return (
        difference - math.sqrt((p1 - low1) ** 2 + (high2 - p2) ** 2),
        difference + math.sqrt((high1 - p1) ** 2 + (p2 - low2) ** 2),
    )


def _wilson(late: int, orders: int, z: float) -> tuple[float, float, float]:
    """A share and its Wilson interval."""
    if orders == 0:
        return 0.0, 0.0, 1.0
    share, spread = late / orders, z**2 / orders
    centre = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / orders + spread / (4 * orders)) / (1 + spread)
    # Rounding must not push a share of exactly 0 or 1 out of its own interval.
    return share, max(min(centre - half, share), 0.0), min(max(centre + half, share), 1.0)


def _bootstrap(ordered: Sequence[float], share: float, random: Random) -> list[float]:
    """A percentile of sorted values in RESAMPLES resamples, drawn with replacement.

    The resamples themselves are not made: the k-th smallest of n uniform draws is Beta(k, n - k + 1)
    distributed, and picks the same value from the sorted ones as the resample would.
    """
    n = len(ordered)
    k = max(math.ceil(share * n), 1)
    return [ordered[min(int(random.betavariate(k, n - k + 1) * n), n - 1)] for _ in range(RESAMPLES)]


def _interval(ordered: Sequence[float], confidence: float) -> tuple[float, float]:
    tail = (1 - confidence) / 2
    return percentile(ordered, tail), percentile(ordered, 1 - tail)


def _word(low: float, high: float) -> str:
    """Smaller is better, for times and late shares alike."""
    if high < 0:
        return "better"
    return "worse" if low > 0 else NO_DIFFERENCE
