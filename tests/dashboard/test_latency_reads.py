"""The latency read model: every value equals that of plain SQL over orders and events."""

import json
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import psycopg
import pytest

from db import queries
from db.domain import State
from db.read_models import latency
from db.read_models.latency import Selection
from db.read_models.latency_buckets import EDGES_MS, edge_below, interpolated_percentile
from db.read_models.time_spans import spans
from loadtest.charts.time_breakdown import SEGMENTS
from tests.dashboard.conftest import SEEDED, query, some_run

SHARES = (0.5, 0.95, 0.99, 1.0)


FROM_EVENTS = """
select count(*) as orders, count(*) filter (where ms > 15000) as late,
    percentile_disc(array[0.5, 0.9, 0.95, 0.99, 1.0]) within group (order by ms) as times,
    count(*) filter (where state = 'completed') as completed,
    count(*) filter (where state = 'cancelled') as cancelled,
    count(*) filter (where state = 'failed') as failed
from (
    select e.state, (e.detail ->> 'completion_ms')::int as ms from events e join orders o using (order_id)
    where e.kind = 'outcome'
        and (%(run_id)s::text is null or o.run_id = %(run_id)s)
        and (%(since)s::timestamptz is null or o.accepted_at >= %(since)s)
        and (%(until)s::timestamptz is null or o.accepted_at < %(until)s)
        and (%(outcome)s::order_state is null or e.state = %(outcome)s)
        and (%(fault_profile)s::text is null or %(fault_profile)s = coalesce((
            select profile from fault_changes f
            where f.at <= o.accepted_at order by f.at desc limit 1), 'none'))
) ended
"""


@pytest.fixture(params=["exact", "rollup"])
def source(request, monkeypatch):
    """Read the same selection from the orders and from the rollup."""
    if request.param == "rollup":
        monkeypatch.setattr(latency, "EXACT_ORDERS", -1)
    return request.param


def test_summary_equals_sql_over_events(seeded, seeded_url, selection, source):
    (truth,) = query(seeded_url, FROM_EVENTS, selection.parameters())
    plan = latency.plan(seeded, selection)
    assert plan.is_exact == (source == "exact" or selection.run_id is not None)
    found = latency.summary(seeded, plan)
    assert (found.orders, found.late) == (truth["orders"], truth["late"])
    assert {state.value: n for state, n in found.outcomes.items()} == {
        name: truth[name] for name in ("completed", "cancelled", "failed")
    }
    if not truth["orders"]:
        return
    for share, true_ms in zip(latency.SHARES, truth["times"], strict=True):
        if plan.is_exact or share == 1.0:
            assert found.times_ms[share] == true_ms
        elif truth["orders"] >= 100:
            assert found.times_ms[share] == pytest.approx(true_ms, rel=0.05)


def test_filters_are_applied_before_choosing_exact_or_rollup(seeded, monkeypatch):
    failed = latency.summary(seeded, latency.plan(seeded, Selection(outcome=State.FAILED))).orders
    assert 0 < failed < SEEDED / 10
    monkeypatch.setattr(latency, "EXACT_ORDERS", failed)
    assert latency.plan(seeded, Selection(outcome=State.FAILED)).is_exact
    assert not latency.plan(seeded, Selection(outcome=State.COMPLETED)).is_exact
    assert not latency.plan(seeded, Selection(fault_profile="assignment")).is_exact
    assert latency.plan(seeded, Selection(fault_profile="assignment", outcome=State.FAILED)).is_exact


def test_histogram_equals_sql_over_orders(seeded, seeded_url, selection, source):
    plan = latency.plan(seeded, selection)
    buckets = latency.buckets(seeded, plan)
    times = query(
        seeded_url,
        "select state, completion_ms as ms from orders o where finished_at is not null"
        " and (%(run_id)s::text is null or run_id = %(run_id)s)"
        " and (%(since)s::timestamptz is null or accepted_at >= %(since)s)"
        " and (%(until)s::timestamptz is null or accepted_at < %(until)s)"
        " and (%(outcome)s::order_state is null or state = %(outcome)s)"
        " and (%(fault_profile)s::text is null or fault_profile = %(fault_profile)s)",
        selection.parameters(),
    )
    for bucket in buckets:
        low = edge_below(bucket.upto_ms)
        for outcome, orders in bucket.outcomes.items():
            inside = sum(row["state"] == outcome and low < row["ms"] <= bucket.upto_ms for row in times)
            assert orders == inside
    assert sum(bucket.orders for bucket in buckets) == len(times)


def test_slices_and_cells_count_every_order_once(seeded, selection, source):
    plan = latency.plan(seeded, selection)
    found = latency.summary(seeded, plan)
    slices, cells = latency.over_time(seeded, plan)
    assert sum(each.orders for each in slices) == sum(cell.orders for cell in cells) == found.orders
    assert len(slices) <= latency.MAX_SLICES + 1
    if slices:
        assert max(each.times_ms[1.0] for each in slices) == found.times_ms[1.0]


def test_exact_slices_equal_sql(seeded, seeded_url):
    plan = latency.plan(seeded, Selection(run_id=some_run(seeded)))
    slices, _ = latency.over_time(seeded, plan)
    for each in slices:
        (truth,) = query(
            seeded_url,
            "select percentile_disc(array[0.5, 0.95, 0.99, 1.0])"
            " within group (order by completion_ms) as times"
            " from orders where run_id = %(run)s and accepted_at >= %(since)s and accepted_at < %(until)s",
            {
                "run": plan.selection.run_id,
                "since": each.at,
                "until": each.at + timedelta(seconds=plan.slice_seconds),
            },
        )
        assert [each.times_ms[share] for share in SHARES] == truth["times"]


def test_slowest_orders_have_segments_that_sum_to_their_completion_time(seeded, seeded_url, selection):
    plan = latency.plan(seeded, selection)
    found = latency.slowest(seeded, plan, latency.buckets(seeded, plan), 12)
    truth = query(seeded_url, "select completion_ms from orders order by 1 desc limit 12")
    if selection == Selection():
        assert [row["completion_ms"] for row in found] == [row["completion_ms"] for row in truth]
    assert [row["completion_ms"] for row in found] == sorted(
        (r["completion_ms"] for r in found), reverse=True
    )
    assert len(found) == min(12, latency.summary(seeded, plan).orders)
    for row in found:
        assert sum(row[f"{segment}_ms"] for segment in SEGMENTS) == row["completion_ms"]


def test_slowest_orders_of_a_rare_outcome_are_read_from_an_index(seeded, seeded_url):
    selected = latency.plan(seeded, Selection(outcome=State.FAILED, fault_profile="none"))
    parameters = selected.selection.parameters() | {"limit": 12, "above_ms": 0}
    with psycopg.connect(seeded_url) as connection, psycopg.ClientCursor(connection) as cursor:
        connection.execute("set enable_seqscan = off")
        cursor.execute("explain (analyze, format json) " + queries.load("latency.sql")["slowest"], parameters)
        plan = json.dumps(cursor.fetchone())
    assert "orders_outcome_latency" in plan
    assert "Rows Removed by Filter" not in plan


def test_cdf_is_exact_at_every_point(seeded, seeded_url):
    plan = latency.plan(seeded, Selection(run_id=some_run(seeded)))
    times = [
        row["completion_ms"]
        for row in query(
            seeded_url, "select completion_ms from orders where run_id = %(r)s", {"r": plan.selection.run_id}
        )
    ]
    curve = latency.summary(seeded, plan).ecdf
    shares = [share for _, share in curve]
    assert shares == sorted(set(shares))
    # The tail has points up to the last order but one.
    assert shares[-1] == 1.0
    assert shares[-2] * len(times) > len(times) - 2
    for ms, share in curve:
        assert sum(time <= ms for time in times) / len(times) >= share
        assert sum(time < ms for time in times) / len(times) <= share


def test_bucket_edges_equal_those_of_the_database(seeded_url):
    (found,) = query(seeded_url, "select latency_edges() as edges")
    assert (*found["edges"], 2**63 - 1) == EDGES_MS
    assert 15_000 in EDGES_MS


@pytest.mark.parametrize(
    ("ms", "upto"), [(0, 47), (47, 47), (48, 49), (15_000, 15_000), (15_001, 15_664), (2**40, 2**63 - 1)]
)
def test_a_time_equal_to_an_edge_belongs_to_the_lower_bucket(seeded_url, ms, upto):
    (found,) = query(seeded_url, "select latency_bucket(%(ms)s) as upto", {"ms": ms})
    assert found["upto"] == upto


@pytest.mark.parametrize("is_exact", [True, False])
def test_the_first_and_the_last_time_select_as_no_time_does(seeded, monkeypatch, is_exact):
    monkeypatch.setattr(latency, "EXACT_ORDERS", 10**9 if is_exact else 0)
    first, last = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
    everything = latency.plan(seeded, Selection())
    assert latency.summary(
        seeded, latency.plan(seeded, Selection(since=first, until=last))
    ) == latency.summary(seeded, everything)
    assert latency.plan(seeded, Selection(since=last)) is latency.plan(seeded, Selection(until=first)) is None


def test_spans_cover_an_interval_once_with_the_coarsest_grains():
    since, until = datetime(2026, 5, 1, 22, 58, tzinfo=UTC), datetime(2026, 5, 4, 1, 2, tzinfo=UTC)
    cut = list(spans(since, until))
    assert [(span.grain_seconds, (span.until - span.since).total_seconds()) for span in cut] == [
        (60, 120), (3_600, 3_600), (86_400, 172_800), (3_600, 3_600), (60, 120),
    ]  # fmt: skip
    assert cut[0].since == since
    assert cut[-1].until == until
    assert all(one.until == other.since for one, other in pairwise(cut))
    assert list(spans(since, since)) == []


def test_interpolation_stays_within_its_bucket_and_the_longest_time():
    counts = [(4_089, 50), (4_270, 50)]
    assert interpolated_percentile(counts, 0.5, 4_200) == 4_089
    assert interpolated_percentile(counts, 0.75, 4_200) == round(4_089 + (4_200 - 4_089) / 2)
    assert interpolated_percentile(counts, 1.0, 4_200) == 4_200
    assert interpolated_percentile([(2**63 - 1, 1)], 0.99, 2**40) <= 2**40
