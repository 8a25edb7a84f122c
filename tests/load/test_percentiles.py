"""Percentiles of a run and of each of its seconds."""

from dataclasses import astuple, replace

import pytest
from hypothesis import given
from hypothesis import strategies as some

from db.read_models.percentiles import min_count, nearest_rank, percentile, percentile_of_counts
from loadtest.generator.recording import OrderRecord
from loadtest.verdict.percentiles import per_second, spread
from tests.load.records import record


def test_percentiles_are_measured_values() -> None:
    values = [float(n) for n in range(1, 101)]
    assert [percentile(values, share) for share in (0.5, 0.9, 0.99, 1.0)] == [50, 90, 99, 100]
    assert percentile([15_450.0], 0.99) == 15_450.0
    assert spread([None, None]) is None
    with pytest.raises(ValueError, match="no values"):
        percentile([], 0.5)


@given(
    some.lists(some.integers(0, 20_000), min_size=1, max_size=300),
    some.sampled_from([0.5, 0.66, 0.9, 0.95, 0.99, 0.999, 1.0]),
)
def test_percentiles_of_counts_are_those_of_the_values(times: list[int], share: float) -> None:
    counts = {time: times.count(time) for time in times}
    assert percentile_of_counts(counts, share) == percentile(sorted(times), share)


def test_the_rank_is_exact_for_every_number_of_orders() -> None:
    # 0.99 is no exact float: a product just above a whole number would give the next rank.
    for percent in (50, 90, 95, 99):
        for orders in range(1, 20_000):
            assert nearest_rank(percent / 100, orders) == -(-percent * orders // 100)


@pytest.mark.parametrize(("share", "count"), [(0.5, 2), (0.9, 10), (0.95, 20), (0.99, 100), (0.999, 1_000)])
def test_a_percentile_of_enough_orders_is_not_the_longest_time(share: float, count: int) -> None:
    assert min_count(share) == count
    assert nearest_rank(share, count) < count
    assert nearest_rank(share, count - 1) == count - 1
    assert min_count(1.0) == 1


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
