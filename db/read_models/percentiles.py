"""Nearest-rank percentiles: the rule for every percentile that is not read from the rollup."""

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction


def nearest_rank(share: float, count: int) -> int:
    """Return the rank, from 1, of a percentile among `count` sorted values, as PostgreSQL's percentile_disc.

    `share` is 0 to 1. Raises ValueError without values.
    """
    if count < 1:
        raise ValueError("percentile of no values")
    return max(math.ceil(share * count), 1)


def min_count(share: float) -> int:
    """Return the number of values from which a percentile is shown: 20 for a p95, 100 for a p99.

    Below it, the percentile is the largest value. `share` is 0 to 1; the largest value (1) needs one value.
    """
    # As floats, 1 / (1 - 0.9) is more than 10.
    above = 1 - Fraction(str(share))
    return math.ceil(1 / above) if above else 1


def percentile(ordered: Sequence[float], share: float) -> float:
    """Return the nearest-rank percentile of sorted values. Raises ValueError for an empty sequence."""
    return ordered[nearest_rank(share, len(ordered)) - 1]


def percentile_of_counts(counts: Mapping[int, int], share: float) -> int:
    """Return the nearest-rank percentile of values, given as their counts. Raises ValueError if empty."""
    rank = nearest_rank(share, sum(counts.values()))
    return next(value for value in sorted(counts) if (rank := rank - counts[value]) <= 0)
