"""Stored load tests: the table of runs, and the comparison of two runs."""

from collections.abc import Collection
from datetime import UTC

import pandas as pd

from db.database import Row
from db.read_models.stored_runs import RunTimes
from orchestrator.rest_client import Json

CDF_POINTS = 500


def stored_runs(rows: list[Row], in_progress: Collection[str]) -> pd.DataFrame:
    """Return one row per run. `rows` come from `db.read_models.stored_runs.newest_runs`."""
    return pd.DataFrame(
        [
            {
                "verdict": row["verdict"] or _without_verdict(row, in_progress),
                "run": row["run_id"],
                "label": row["label"] or "",
                "scenario": row["scenario"],
                "faults": row["fault_profile"] or "",
                "started": row["started_at"].astimezone(UTC).replace(tzinfo=None),
                "orders": row["counted_orders"],
                "late": row["late_orders"],
                "rate": row["offered_rate"],
                "p99 s": None if row["p99_ms"] is None else row["p99_ms"] / 1000,
                "baseline": row["is_baseline"],
                "notes": row["notes"],
            }
            for row in rows
        ]
    )


def _without_verdict(row: Row, in_progress: Collection[str]) -> str:
    if row["ended_at"] is not None:
        return "no verdict"
    return "in progress" if row["run_id"] in in_progress else "aborted"


def cdf(times: RunTimes, points: int = CDF_POINTS) -> list[tuple[int, float]]:
    """Return (ms, share that took at most that) for all times, or for `points` evenly spaced ones."""
    n = len(times.finished_ms)
    ranks = range(1, n + 1) if n <= points else [round(p * n / points) for p in range(1, points + 1)]
    return [(times.finished_ms[rank - 1], rank / n) for rank in ranks]


def differences(comparison: Json) -> pd.DataFrame:
    """Return one row for each percentile and one for the late share, each with its 99 % interval."""
    rows = [
        _difference(name, found, scale=0.001, unit="s") for name, found in comparison["completion_ms"].items()
    ]
    return pd.DataFrame([*rows, _difference("late", comparison["late_share"], scale=100, unit="%")])


def _difference(measure: str, found: Json, *, scale: float, unit: str) -> dict[str, str]:
    return {
        "measure": measure,
        "this run": f"{scale * found['run']:.3f} {unit}",
        "baseline": f"{scale * found['baseline']:.3f} {unit}",
        "difference": f"{scale * found['difference']:+.3f} {unit}",
        "99 % interval": ""
        if found["low"] is None
        else f"{scale * found['low']:+.3f} to {scale * found['high']:+.3f} {unit}",
        "result": found["verdict"],
    }
