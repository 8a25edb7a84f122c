"""The course of a run over time: counts per second, completion times, and the chart."""

from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from psycopg.types.json import Jsonb

from db.read_models import run_timeline
from db.read_models.latency import Disturbance, FaultSpan, Slice
from db.read_models.run_timeline import RunSecond, RunTimeline, slice_width
from db.read_only_database import ReadOnlyDatabase
from loadtest.charts.palette import LIGHT
from loadtest.charts.run.time_axis import MAX_POINTS, run_time_axis, seconds_per_point
from loadtest.verdict.percentiles import per_second
from tests.dashboard.conftest import query, reader_of, some_run
from tests.load.records import records
from tests.servers import PostgresServer

START = datetime(2026, 1, 31, 12, tzinfo=UTC)


def timeline(seconds: int = 60, **changes) -> RunTimeline:
    rows = [RunSecond(n, 10, 9, 8, 1 if n == 5 else 0, n, 0.5) for n in range(seconds)]
    slices = [
        Slice(START, 100, {0.5: 2000, 0.99: 9000, 1.0: 16_000}),
        Slice(START + timedelta(seconds=10), 99, {0.5: 2100, 0.99: 9100, 1.0: 9100}),
    ]
    faults = [FaultSpan("assignment", 1, START, None)]
    disturbances = [Disturbance("run", START + timedelta(seconds=20), "kill", "order-worker-1")]
    return RunTimeline(
        **{
            "started_at": START,
            "limit_seconds": 15.0,
            "seconds": rows,
            "slices": slices,
            "slice_seconds": 10,
            "faults": faults,
            "disturbances": disturbances,
        }
        | changes
    )


def traces(of: RunTimeline) -> dict:
    return {trace.name: trace for trace in run_time_axis(of, LIGHT).data}


def test_counts_of_a_run_without_statistics_come_from_its_orders(seeded: ReadOnlyDatabase, seeded_url: str):
    run_id = some_run(seeded)
    found = run_timeline.run_timeline(seeded, run_id)
    assert found is not None
    (truth,) = query(
        seeded_url,
        "select count(*) as orders, count(*) filter (where not within_limit) as late,"
        " max(finished_at) as last from orders where run_id = %(run)s",
        {"run": run_id},
    )
    for name in ("offered", "accepted", "finished"):
        assert sum(getattr(each, name) for each in found.seconds) == truth["orders"]
    assert sum(each.late for each in found.seconds) == truth["late"]
    assert [each.second for each in found.seconds] == list(range(len(found.seconds)))
    assert found.seconds[-1].in_flight == 0
    assert found.seconds[60].in_flight > 0
    assert 0 <= (found.until - truth["last"]).total_seconds() <= 1
    assert sum(each.orders for each in found.slices) == truth["orders"]
    assert [each.profile for each in found.faults if each.profile != "none"] == ["assignment"]


def test_counts_of_an_ended_run_are_its_statistics(postgres: PostgresServer):
    statistics = per_second(records(40))
    with postgres.fresh_database() as url:
        with psycopg.connect(url) as connection:
            connection.execute(
                "insert into runs (run_id, scenario, options, started_at, ended_at, statistics)"
                " values ('ended', 'mixed', '{\"slo_seconds\": 20}', %s, %s, %s)",
                (START, START + timedelta(seconds=60), Jsonb(statistics)),
            )
        reader = reader_of(url)
        found = run_timeline.run_timeline(reader, "ended")
        assert run_timeline.run_timeline(reader, "unknown") is None
        reader.close()
    assert found is not None
    assert found.limit_seconds == 20
    assert found.slices == []
    assert [each.offered for each in found.seconds] == [row["offered"] for row in statistics]
    assert [each.in_flight for each in found.seconds] == [row["in_flight"] for row in statistics]
    assert found.seconds[0].send_delay_ms == statistics[0]["lag_max"]


def test_the_orders_of_a_second_are_those_accepted_or_open_in_it(seeded: ReadOnlyDatabase, seeded_url: str):
    run_id = some_run(seeded)
    (run,) = query(seeded_url, "select started_at from runs where run_id = %(run)s", {"run": run_id})
    since = run["started_at"] + timedelta(seconds=100)
    until = since + timedelta(seconds=1)
    found = run_timeline.orders_of_second(seeded, run_id, since)
    truth = query(
        seeded_url,
        "select order_id, accepted_at >= %(since)s as is_new from orders where run_id = %(run)s"
        " and accepted_at < %(until)s and finished_at >= %(since)s order by accepted_at desc, order_id desc",
        {"run": run_id, "since": since, "until": until},
    )
    assert truth
    assert [(row["order_id"], row["is_new"]) for row in found] == [
        (row["order_id"], row["is_new"]) for row in truth
    ]
    assert len(run_timeline.orders_of_second(seeded, run_id, since, limit=1)) == 1


@pytest.mark.parametrize(
    ("orders", "seconds", "width"),
    [(90, 30, 5), (600, 60, 10), (3_000, 300, 30), (100_000, 100, 1), (0, 0, 1), (1, 1, 1)],
)
def test_slices_are_wide_enough_for_a_p99_if_the_run_is_long_enough(orders: int, seconds: int, width: int):
    assert slice_width(orders, seconds) == width


def test_the_chart_has_every_series_on_one_time_axis():
    shown = traces(timeline())
    assert list(shown) == [
        "late (by time due)", "offered", "accepted", "finished", "in flight", "longest send delay, ms",
        "slowest", "p99", "p50",
    ]  # fmt: skip
    assert {trace.xaxis or "x" for trace in shown.values()} == {"x"}
    assert list(shown["accepted"].y) == [9] * 60
    assert list(shown["in flight"].y) == list(range(60))
    assert shown["offered"].x[23] == START + timedelta(seconds=23)


def test_a_slice_with_fewer_than_100_orders_has_no_p99():
    shown = traces(timeline())
    assert list(shown["p99"].y) == [9.0, None]
    assert list(shown["p50"].y) == [2.0, 2.1]
    assert list(shown["slowest"].y) == [16.0, 9.1]


def test_a_long_run_is_drawn_with_a_limited_number_of_points():
    long = timeline(seconds=3 * MAX_POINTS - 1)
    assert seconds_per_point(long) == 3
    shown = traces(long)
    assert len(shown["offered"].x) == MAX_POINTS
    assert list(shown["offered"].y) == [10] * MAX_POINTS, "per second"
    assert shown["late (by time due)"].y[1] == pytest.approx(1 / 3)


def test_the_chart_shows_limit_faults_and_disturbances():
    figure = run_time_axis(timeline(), LIGHT)
    labels = {annotation.text for annotation in figure.layout.annotations}
    assert labels == {"limit 15 s", "assignment", "kill order-worker-1 (+15 s)"}


def test_a_run_without_orders_has_an_empty_chart():
    figure = run_time_axis(timeline(seconds=0, slices=[]), LIGHT)
    assert all(not trace.x for trace in figure.data)
