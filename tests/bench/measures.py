"""Measurements with a target, as percentiles of several values."""

import statistics
import time
from collections.abc import Callable

from db.read_models.percentiles import percentile
from loadtest.bench.harness import Measurement

Query = Callable[[], object]


def at_most(measure: str, values: list[float], limit: float, unit: str, *, share: float = 1.0) -> Measurement:
    """Compare the percentile `share` (1.0: the maximum) of the values with `limit`."""
    measured = percentile(sorted(values), share)
    name = "max" if share == 1.0 else f"p{100 * share:g}"
    value = spread(values, unit) if len(values) > 1 else f"{measured:,.0f} {unit}"
    return Measurement(measure, value, f"{name} ≤ {limit:,g} {unit}", measured <= limit)


def spread(values: list[float], unit: str) -> str:
    """Return the median, the p95 and the maximum as text."""
    p95 = percentile(sorted(values), 0.95)
    return f"p50 {statistics.median(values):,.1f}, p95 {p95:,.1f}, max {max(values):,.1f} {unit}"


def timed_ms(query: Query) -> float:
    began = time.perf_counter()
    query()
    return (time.perf_counter() - began) * 1000
