"""Stored load tests: their table, and two of them side by side."""

from datetime import UTC
from typing import Any

import pandas as pd

from db.database import Row
from db.read_models.stored_runs import RunTimes
from loadtest.verdict.comparison import compare_times

ECDF_POINTS = 500

Json = dict[str, Any]


def shelf(rows: list[Row]) -> pd.DataFrame:
    """Rows as of `db.read_models.stored_runs.shelf`; times in seconds, rate in orders a second."""
    return pd.DataFrame(
        [
            {
                "run": row["run_id"],
                "verdict": row["verdict"] or ("no verdict" if row["ended_at"] else "under way or broken off"),
                "scenario": row["scenario"],
                "faults": row["fault_profile"] or "",
                "started": row["started_at"].astimezone(UTC).replace(tzinfo=None),
                "orders": row["counted_orders"],
                "late": row["late_orders"],
                "rate": row["offered_rate"],
                "p99 s": None if row["p99_ms"] is None else row["p99_ms"] / 1000,
            }
            for row in rows
        ],
        columns=["run", "verdict", "scenario", "faults", "started", "orders", "late", "rate", "p99 s"],
    )


def curve(times: RunTimes, points: int = ECDF_POINTS) -> list[tuple[int, float]]:
    """(ms, share that took at most that): every time of a small run, evenly spaced ones of a large."""
    n = len(times.completion_ms)
    if n <= points:
        return [(ms, number / n) for number, ms in enumerate(times.completion_ms, start=1)]
    places = sorted({round(step * n / points) for step in range(1, points + 1)})
    return [(times.completion_ms[place - 1], place / n) for place in places]


def compared(one: RunTimes, other: RunTimes) -> Json:
    """`one` against `other`, as `loadtest.verdict.comparison` does it."""
    return compare_times(one, other)


def differences(comparison: Json) -> pd.DataFrame:
    """One row a percentile and one for the late share, each with its 95 % interval and a word."""
    rows = [
        {
            "measure": name,
            "this run": f"{found['run'] / 1000:.3f} s",
            "the other": f"{found['baseline'] / 1000:.3f} s",
            "difference": f"{found['difference'] / 1000:+.3f} s",
            "95 % interval": f"{found['low'] / 1000:+.3f} to {found['high'] / 1000:+.3f} s",
            "shows": found["verdict"],
        }
        for name, found in comparison["completion_ms"].items()
    ]
    late = comparison["late_share"]
    rows.append(
        {
            "measure": "late",
            "this run": f"{100 * late['run']:.3f} %",
            "the other": f"{100 * late['baseline']:.3f} %",
            "difference": f"{100 * (late['difference']):+.3f} %",
            "95 % interval": f"{100 * late['low']:+.3f} to {100 * late['high']:+.3f} %",
            "shows": late["verdict"],
        }
    )
    return pd.DataFrame(rows)
