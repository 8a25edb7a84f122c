"""Percentiles from the buckets of the rollup."""

EDGES_MS = (*sorted({round(15_000 * 2 ** (n / 16)) for n in range(-133, 129)}), 2**63 - 1)
"""Upper edges of the buckets, 4.4 % apart; the last bucket is unbounded. Same as `latency_edges()` in SQL."""


def edge_below(upto_ms: int) -> int:
    """Return the lower edge of the bucket with this upper edge."""
    return EDGES_MS[EDGES_MS.index(upto_ms) - 1] if upto_ms in EDGES_MS[1:] else 0


def interpolated_percentile(counts: list[tuple[int, int]], share: float, longest_ms: int) -> int:
    """Return the percentile of (upto_ms, orders) pairs in ascending order, interpolated within its bucket.

    `share` 0.5 is the median. 1 returns the exact maximum, `longest_ms`.
    """
    rank = share * sum(orders for _, orders in counts)
    below = 0
    for upto_ms, orders in counts:
        if below + orders >= rank:
            upper = min(upto_ms, longest_ms)
            lower = min(edge_below(upto_ms), upper)
            return round(lower + (upper - lower) * (rank - below) / orders)
        below += orders
    return longest_ms
