"""The orders of a run for its playback, from the database."""

from datetime import UTC, datetime
from itertools import pairwise
from typing import LiteralString
from uuid import uuid4

import pytest

from db.domain import State
from db.read_models import latency, playback
from db.read_models.latency import Selection
from db.read_models.playback import phases
from db.read_only_database import ReadOnlyDatabase
from loadtest.reports import report_charts, run_details
from tests.dashboard.conftest import Pages, query, reader_of, some_run
from tests.load.report_page import ReportPage
from tests.orders import OrderDriver, new_order


@pytest.fixture(scope="module")
def run(seeded: ReadOnlyDatabase, seeded_url: str) -> dict:
    run_id = some_run(seeded)
    return query(seeded_url, "select * from runs where run_id = %(run)s", {"run": run_id})[0]


def test_every_order_of_a_run_is_played(seeded: ReadOnlyDatabase, seeded_url: str, run: dict) -> None:
    found = playback.orders(seeded, run["run_id"], run["started_at"])
    rows = query(
        seeded_url,
        "select order_id, state, completion_ms, not within_limit as late,"
        " extract(epoch from accepted_at - %(start)s)::float8 * 1000 as accepted_ms"
        " from orders where run_id = %(run)s order by accepted_at, order_id",
        {"run": run["run_id"], "start": run["started_at"]},
    )
    assert found.total == len(found.shown) == len(rows) > 50
    for order, row in zip(found.shown, rows, strict=True):
        assert (order.order_id, order.outcome, order.end_ms, order.is_late) == (
            row["order_id"], row["state"], row["completion_ms"], row["late"],
        )  # fmt: skip
        assert order.accepted_ms == pytest.approx(row["accepted_ms"], abs=1)


def test_phases_start_when_the_step_before_ended(
    seeded: ReadOnlyDatabase, seeded_url: str, run: dict
) -> None:
    found = playback.orders(seeded, run["run_id"], run["started_at"])
    completed = next(order for order in found.shown if order.outcome == State.COMPLETED)
    names = [name for name, _ in completed.phases]
    assert names == ["receive", "validate", "review", "charge", "prepare", "dispatch"]
    starts = dict(completed.phases)
    (row,) = query(
        seeded_url,
        "select (extract(epoch from e.at - o.accepted_at) * 1000)::int as ms"
        " from events e join orders o using (order_id)"
        " where order_id = %(id)s and e.state = 'approved' and e.kind = 'state'",
        {"id": completed.order_id},
    )
    assert starts["charge"] == row["ms"]
    aborted = next(order for order in found.shown if order.outcome == State.CANCELLED)
    assert [name for name, _ in aborted.phases][-1] == "compensate"
    for order in found.shown:
        assert all(first <= second for (_, first), (_, second) in pairwise(order.phases))
        assert order.end_ms is not None
        assert order.phases[-1][1] <= order.end_ms


def test_a_large_run_is_thinned_evenly(seeded: ReadOnlyDatabase, run: dict) -> None:
    every = playback.orders(seeded, run["run_id"], run["started_at"])
    for count in (1, every.total // 3, every.total - 1):
        some = playback.orders(seeded, run["run_id"], run["started_at"], max_orders=count)
        assert len(some.shown) == count
        assert some.shown == playback.evenly_chosen(every.shown, count)
        assert some.total == every.total


@pytest.mark.parametrize(
    "statement",
    [
        pytest.param("delete from events", id="retention"),
        pytest.param("update orders set step_ends_ms = null", id="finished-by-an-older-release"),
    ],
)
async def test_finished_orders_keep_their_phases(
    driver: OrderDriver, order_database_url: str, statement: LiteralString
) -> None:
    began = datetime.now(UTC)
    run_id = f"kept-{uuid4().hex[:8]}"
    for state in (State.COMPLETED, State.CANCELLED):
        await driver.carry_to(state, new_order(run_id=run_id))
    await driver.pool.execute("alter table orders disable trigger orders_reject_illegal_transition")
    reader = reader_of(order_database_url)
    before = playback.orders(reader, run_id, began).shown
    assert [[phase for phase, _ in order.phases] for order in before] == [
        ["receive", "validate", "review", "charge", "prepare", "dispatch"],
        ["receive", "compensate"],
    ]
    await driver.pool.execute(statement)
    assert playback.orders(reader, run_id, began).shown == before
    reader.close()


def test_an_unknown_run_has_no_orders(seeded: ReadOnlyDatabase, run: dict) -> None:
    assert playback.orders(seeded, "unknown", run["started_at"]).total == 0


def test_a_step_that_ended_after_the_abort_is_no_phase() -> None:
    assert phases({"receive": 10, "validate": 30, "review": 2_000, "charge": 2_600}, 2_100) == (
        ("receive", 0),
        ("validate", 10),
        ("review", 30),
        ("charge", 2_000),
        ("compensate", 2_100),
    )
    assert phases({}, None) == ()


def test_the_details_of_a_report(seeded: ReadOnlyDatabase, seeded_url: str, run: dict) -> None:
    report = {
        "run_id": run["run_id"],
        "started_at": run["started_at"].isoformat(),
        "ended_at": run["ended_at"].isoformat(),
        "limit": {"slo_seconds": 15.0},
        "disturbances": [{"at_seconds": 5.0, "verb": "kill", "target": "api", "problem": None}],
    }
    details = run_details.read_details(seeded_url, report)
    slowest = [row["order_id"] for row in details.slowest]
    times = sorted((order.end_ms for order in details.orders.shown), reverse=True)
    assert [row["completion_ms"] for row in details.slowest] == times[:10]
    assert [each.order["order_id"] for each in details.timelines] == slowest
    assert [fault.profile for fault in details.faults] != []
    assert [each.target for each in details.disturbances] == ["api"]
    groups = (details.groups.on_time, details.groups.slow, details.groups.late)
    assert sum(group.orders for group in groups if group) == len(times)


def test_the_page_shows_the_playback_on_request(page: Pages, seeded_url: str, run: dict) -> None:
    shown = page.run("load_tests", seeded_url, run=run["run_id"])
    assert shown.get("iframe") == []
    shown.toggle(key="playback").set_value(True).run()
    (frame,) = shown.get("iframe")
    played = ReportPage(frame.proto.srcdoc).unpacked("playback-data")
    assert played["total"] == run["counted_orders"]
    assert played["limit_ms"] == 15_000
    assert [each["name"] for each in played["faults"]] == ["assignment"]


def test_the_histogram_of_a_report_is_that_of_the_dashboard(seeded: ReadOnlyDatabase, run: dict) -> None:
    plan = latency.plan(seeded, Selection(run_id=run["run_id"]))
    assert plan is not None
    played = playback.orders(seeded, run["run_id"], run["started_at"]).shown
    completions = [(order.end_ms, order.outcome) for order in played]
    assert report_charts.buckets(completions) == latency.buckets(seeded, plan)
