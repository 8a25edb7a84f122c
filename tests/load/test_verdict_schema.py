"""Verdicts of earlier and later versions of the software."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from db.read_models.stored_runs import RunTimes
from db.runs import NewRun, StoredRun
from loadtest.reports.documents import junit, markdown
from loadtest.verdict.comparison import compare_runs, comparison_text
from loadtest.verdict.schema import SCHEMA_VERSION, schema_problem
from tests.load.records import records, rows, verdict_of

SCHEMA_1 = json.loads(Path(__file__).with_name("verdict-schema-1.json").read_text())
NEWER = {"schema_version": SCHEMA_VERSION + 1, "run_id": "r", "other": {}}
NEW_RUN = NewRun("r", "mixed", {}, [], "none", 1, datetime.now(UTC), None, {})


def stored(verdict: dict[str, Any]) -> StoredRun:
    result = {"ended_at": datetime.now(UTC), "statistics": [], "chaos": [], "completion_ms": [1]}
    return StoredRun(**vars(NEW_RUN), **result, verdict=verdict, late_orders=0, counted_orders=1)


def test_a_verdict_has_the_current_schema() -> None:
    report = verdict_of(records(10)).report
    assert report["schema_version"] == SCHEMA_VERSION
    assert schema_problem(report) is None


def test_a_verdict_of_the_first_schema_is_shown() -> None:
    assert schema_problem(SCHEMA_1) is None
    shown = rows(SCHEMA_1)
    assert shown["run"].startswith("400 of 400 orders sent at 8/s; 100.00% of them on time;")
    assert shown["invariants"].startswith("no violation: 9 invariants checked on 400 orders")
    assert shown["limit"].startswith("met: 0 late of 400 (15 s)")
    assert shown["compared with earlier"] == "not compared: there is no run earlier any more"
    assert "| completion | 400 |" in markdown(SCHEMA_1)
    assert b'failures="0"' in junit(SCHEMA_1)


def test_a_verdict_of_a_newer_schema_is_reported() -> None:
    problem = schema_problem(NEWER)
    assert problem is not None
    assert problem.startswith("Run r was stored by a newer version of this software")
    comparison = compare_runs(NEW_RUN, RunTimes([1], 0, 1), "r", stored(NEWER))
    assert comparison_text(comparison) == f"not compared: {problem}"
    assert compare_runs(NEW_RUN, RunTimes([1], 0, 1), "r", stored(SCHEMA_1))["problem"] is None
