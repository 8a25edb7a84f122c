"""Measurements with a target, as percentiles of several values."""

import statistics
import time
from collections.abc import Callable

from db.read_models.percentiles import percentile
from loadtest.bench.harness import Measurement

Query = Callable[[], object]


def at_most(measure: str, values: list[float], limit: float, unit: str, *, share: float = 1.0) -> Measurement:
    """Compare the percentile `share` (1.0: the maximum) of the values with `limit`."""
    ordered = sorted(values)
    measured, p95 = percentile(ordered, share), percentile(ordered, 0.95)
    name = "max" if share == 1.0 else f"p{100 * share:g}"
    spread = f"p50 {statistics.median(values):,.1f}, p95 {p95:,.1f}, max {ordered[-1]:,.1f} {unit}"
    value = spread if len(values) > 1 else f"{measured:,.0f} {unit}"
    return Measurement(measure, value, f"{name} ≤ {limit:,g} {unit}", measured <= limit)


def timed_ms(query: Query) -> float:
    began = time.perf_counter()
    query()
    return (time.perf_counter() - began) * 1000
