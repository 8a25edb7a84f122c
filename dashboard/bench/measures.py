"""What the bench prints: rows of a Markdown table, each judged against its target where there is one."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

from dashboard.view_models.slo_targets import percentile

Query = Callable[[], object]


@dataclass(frozen=True)
class Row:
    """One line of the table. `is_kept` is None where the target could not be judged."""

    measure: str
    value: str
    target: str
    is_kept: bool | None


def at_most(measure: str, values: list[float], limit: float, unit: str, *, share: float = 1.0) -> Row:
    """Judges the percentile `share` of the values; 1.0 is the largest of them."""
    judged, p95 = percentile(values, share), percentile(values, 0.95)
    assert judged is not None, "there is something to judge"
    name = "max" if share == 1.0 else f"p{100 * share:g}"
    told = f"p50 {statistics.median(values):,.1f}, p95 {p95:,.1f}, max {max(values):,.1f} {unit}"
    return Row(
        measure,
        told if len(values) > 1 else f"{judged:,.0f} {unit}",
        f"{name} ≤ {limit:,g} {unit}",
        judged <= limit,
    )


def timed_ms(work: Query) -> float:
    began = time.perf_counter()
    work()
    return (time.perf_counter() - began) * 1000
