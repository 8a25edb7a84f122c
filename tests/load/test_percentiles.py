"""Percentiles of a run and of each of its seconds."""

from dataclasses import astuple, replace

import pytest

from loadtest.generator.recording import OrderRecord
from loadtest.verdict.percentiles import per_second, percentile, spread
from tests.load.records import record


def test_percentiles_are_measured_values() -> None:
    values = [float(n) for n in range(1, 101)]
    assert [percentile(values, share) for share in (0.5, 0.9, 0.99, 1.0)] == [50, 90, 99, 100]
    assert percentile([15_450.0], 0.99) == 15_450.0
    assert spread([None, None]) is None
    with pytest.raises(ValueError, match="no values"):
        percentile([], 0.5)


def test_statistics_per_second() -> None:
    records = [record(0, 0.2), record(1, 0.7, end_to_end_ms=2_900.0, late=True), record(2, 1.1)]
    rows = per_second(records)
    assert [row["offered"] for row in rows] == [2, 1, 0, 0]
    assert [row["finished"] for row in rows] == [0, 1, 1, 1]
    assert [row["in_flight"] for row in rows] == [2, 2, 1, 0]
    assert [row["late"] for row in rows] == [1, 0, 0, 0]
    assert rows[2]["completion_p50"] is None


def test_records_survive_serialization() -> None:
    known = replace(record(3, 1.5), reason="deadline", late=True)
    assert OrderRecord(*astuple(known)) == known
