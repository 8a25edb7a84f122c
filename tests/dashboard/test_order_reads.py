"""Read models of live orders, order search, order details and disturbances: equal to plain SQL."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from dashboard.view_models import order_tables
from dashboard.view_models.review_cards import review_time
from db import rejected_starts, runs
from db.domain import ReviewMode, State
from db.read_models import latency, live_orders, order_search
from db.read_models.order_search import Search
from orchestrator.deadlines import SIMULATED_NEEDS
from tests.dashboard.conftest import query, reader_of, some_run
from tests.orders import new_order


async def test_live_values_equal_sql(driver, order_database_url):
    for _ in range(3):
        await driver.carry_to(State.COMPLETED)
    open_ids = [await driver.carry_to(State.CHARGED) for _ in range(2)]
    overdue = await driver.open(accepted_at=datetime.now(UTC) - timedelta(seconds=60))
    database = reader_of(order_database_url)
    (truth,) = query(
        order_database_url,
        "select count(*) filter (where finished_at is null) as orders,"
        " count(*) filter (where finished_at is null and deadline_at < now()) as overdue,"
        " count(*) filter (where finished_at > now() - interval '300 s') as finished,"
        " count(*) filter (where finished_at > now() - interval '300 s' and not within_limit) as late,"
        " (select percentile_disc(array[0.5, 0.95, 0.99, 1.0]) within group (order by completion_ms)"
        "  from orders"
        "  where finished_at > now() - interval '300 s') as times from orders",
    )
    in_flight, recent = live_orders.in_flight(database), live_orders.recent_outcomes(database, 300)
    assert (in_flight.orders, in_flight.overdue) == (truth["orders"], truth["overdue"])
    assert (recent.finished, recent.late) == (truth["finished"], truth["late"])
    assert [recent.p50_ms, recent.p95_ms, recent.p99_ms, recent.max_ms] == truth["times"]
    by_deadline = [row["order_id"] for row in live_orders.orders_by_deadline(database, 50)]
    assert by_deadline[0] == overdue
    assert set(open_ids) <= set(by_deadline)
    (started,) = query(
        order_database_url,
        "select count(*) as n from orders where accepted_at >= date_trunc('second', now()) - interval '120 s'"
        " and accepted_at < date_trunc('second', now())",
    )
    assert sum(row["started"] for row in live_orders.throughput(database, 120)) == pytest.approx(
        started["n"], abs=3
    )
    database.close()


async def test_rejected_starts_of_several_api_processes_are_added(driver, order_database_url):
    await driver.pool.execute("insert into rejected_starts values (now() - interval '25 hours', 5)")
    for starts in (2, 3):
        await rejected_starts.record(driver.pool, starts)
    # The current second is not complete.
    await driver.pool.execute("update rejected_starts set at = at - interval '2 s'")
    database = reader_of(order_database_url)
    rejected = [row["rejected"] for row in live_orders.throughput(database, 120)]
    database.close()
    (left,) = query(order_database_url, "select sum(starts)::int as n from rejected_starts")
    assert sum(rejected) == left["n"] == 5


async def test_only_undecided_manual_orders_await_review(driver, order_database_url):
    needs = replace(SIMULATED_NEEDS, steps=SIMULATED_NEEDS.steps | {"charge": 4.0})
    waiting = await driver.carry_to(
        State.IN_REVIEW, new_order(review=ReviewMode.MANUAL, limit_seconds=20, time_needs=needs)
    )
    approved = await driver.carry_to(State.APPROVED, new_order(review=ReviewMode.MANUAL))
    automatic = await driver.carry_to(State.IN_REVIEW)
    early = await driver.carry_to(State.VALIDATED, new_order(review=ReviewMode.MANUAL))
    await driver.repository.record_request(early, "approve_order", accepted=True, reviewer="ann")
    database = reader_of(order_database_url)
    found = {row["order_id"]: row for row in live_orders.orders_awaiting_review(database, 50)}
    in_flight = live_orders.in_flight(database)
    await driver.abort(waiting)
    assert live_orders.in_flight(database).compensating == in_flight.compensating + 1
    assert in_flight.in_review == 1
    database.close()
    assert waiting in found
    assert approved not in found
    assert early not in found
    assert automatic not in found
    left, total = review_time(found[waiting])
    # 20 s, less 4 s + 0.8 s + 0.8 s of the later steps, 3 s + 0.25 s to compensate, and one attempt.
    assert 0 < left <= total == pytest.approx(10.95, abs=0.001)


def test_search_equals_sql(seeded, seeded_url):
    for wanted, condition in (
        (Search(), "true"),
        (Search(only_late=True), "not within_limit"),
        (Search(state=State.FAILED), "state = 'failed'"),
        (Search(run_id=some_run(seeded)), f"run_id = '{some_run(seeded)}'"),
        (Search(only_open=True), "finished_at is null"),
        (Search(prefix="seed_"), "false"),
    ):
        truth = query(
            seeded_url,
            f"select order_id from orders where {condition}"
            " order by accepted_at desc, order_id desc limit 50",
        )
        assert [row["order_id"] for row in order_search.search(seeded, wanted, 50)] == [
            row["order_id"] for row in truth
        ]


@pytest.mark.parametrize(("few", "counted"), [(5_000, 100_000), (1, 100_000), (1, 1)])
def test_a_prefix_search_returns_the_newest_of_few_and_of_many_matches(
    seeded, seeded_url, monkeypatch, few, counted
):
    monkeypatch.setattr(order_search, "FEW_MATCHES", few)
    monkeypatch.setattr(order_search, "MAX_COUNTED", counted)
    (oldest,) = query(seeded_url, "select order_id from orders order by accepted_at limit 1")
    prefix = oldest["order_id"].rpartition("-")[0]
    for wanted, condition in (
        (Search(prefix=prefix), "true"),
        (Search(prefix=prefix, state=State.FAILED), "state = 'failed'"),
        (Search(prefix=prefix, only_late=True), "not within_limit"),
        (Search(prefix=prefix, run_id=f"{prefix}-run1"), f"run_id = '{prefix}-run1'"),
    ):
        truth = query(
            seeded_url,
            f"select order_id from orders where {condition} and order_id like %(prefix)s"
            " order by accepted_at desc, order_id desc limit 20",
            {"prefix": prefix + "%"},
        )
        found = order_search.search(seeded, wanted, 20)
        assert [row["order_id"] for row in found] == [row["order_id"] for row in truth]
        if len(found) == 20:
            before = (found[9]["accepted_at"], found[9]["order_id"])
            assert order_search.search(seeded, replace(wanted, before=before), 10) == found[10:]


def test_search_pages_have_no_gap_and_no_overlap(seeded):
    first = order_search.search(seeded, Search(), 7)
    last = first[-1]
    second = order_search.search(seeded, Search(before=(last["accepted_at"], last["order_id"])), 7)
    together = order_search.search(seeded, Search(), 14)
    assert [row["order_id"] for row in first + second] == [row["order_id"] for row in together]


async def test_order_details_have_the_order_database_and_the_provider_records(driver, order_database_url):
    order_id = await driver.carry_to(State.COMPLETED)
    database = reader_of(order_database_url)
    details = order_search.order_details(database, order_id)
    assert order_search.order_details(database, "unknown") is None
    database.close()
    events = await driver.events(order_id)
    assert [event["at"] for event in details.events] == [event["at"] for event in events]
    assert json.loads(json.dumps(order_tables.events(details)["event"].tolist())) == [
        event["kind"] for event in events
    ]
    table = order_tables.payment_and_shipment(details).set_index("")
    assert table.loc["charged", "Order database"] == f"{details.order['amount_cents'] / 100:,.2f} USD"
    # The test writes to the order database only, without a gateway.
    assert table.loc["charged", "Provider records"] == ""


def test_disturbances_of_a_run_have_the_times_of_its_verdict(order_database_url: str) -> None:
    at = datetime(2026, 11, 24, 12, tzinfo=UTC)
    runs.record_disturbance(order_database_url, at=at, action="kill", component="api", time_budget_seconds=0)
    runs.record_disturbance(
        order_database_url, at=at + timedelta(seconds=5), action="stop", component="postgres", run_id="r",
        is_planned=True, time_budget_seconds=0,
    )  # fmt: skip
    runs.record_disturbance(
        order_database_url, at=at + timedelta(seconds=9), action="pause", component="api", run_id="r",
        time_budget_seconds=0,
    )  # fmt: skip
    database = reader_of(order_database_url)

    def recorded() -> list[tuple[str | None, datetime, str]]:
        found = latency.disturbances(database, at, at + timedelta(minutes=1))
        return [(each.run_id, each.at, f"{each.verb} {each.target}") for each in found]

    by_hand = (None, at, "kill api")
    unplanned = ("r", at + timedelta(seconds=9), "pause api")
    assert recorded() == [by_hand, ("r", at + timedelta(seconds=5), "stop postgres"), unplanned]
    with psycopg.connect(order_database_url) as connection:
        connection.execute(
            "insert into runs (run_id, scenario, options, started_at, ended_at, machine, chaos)"
            " values ('r', 'mixed', '{}', %s, %s, '{}', %s)",
            (
                at,
                at + timedelta(seconds=30),
                '[{"at_seconds": 5.25, "verb": "stop", "target": "postgres", "problem": null},'
                ' {"at_seconds": 7, "verb": "kill", "target": "api", "problem": "it is not running"}]',
            ),
        )
    # The time in the verdict replaces the recorded time. A disturbance that failed is left out.
    assert recorded() == [by_hand, ("r", at + timedelta(seconds=5.25), "stop postgres"), unplanned]
    database.close()


def test_the_newest_disturbances_are_shown(order_database_url: str) -> None:
    at = datetime(2026, 11, 25, 12, tzinfo=UTC)
    for second in range(5):
        runs.record_disturbance(
            order_database_url, at=at + timedelta(seconds=second), action="kill", component="api",
            time_budget_seconds=0,
        )  # fmt: skip
    database = reader_of(order_database_url)
    found = latency.disturbances(database, at, at + timedelta(minutes=1), limit=2)
    database.close()
    assert [(each.at - at).total_seconds() for each in found] == [3, 4]
