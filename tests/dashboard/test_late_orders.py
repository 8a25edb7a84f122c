"""Late orders count everywhere, by the limit of their load test; links with times and other parameters."""

import asyncio
import csv
import io
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from dashboard import filters
from db import runs
from db.database import Database
from db.domain import State
from db.maintenance.audit import audit_database
from db.orders import OrderRepository
from db.read_models import latency, latency_report, live_orders, order_metrics, order_search, stored_runs
from db.read_models.latency import LatencyFilter, Selection, Slo
from db.read_models.order_search import Search
from loadtest.bench.seed import seed, seed_recent
from tests.dashboard.conftest import Pages, reader_of, texts
from tests.orders import TEMPORAL, OrderDriver, new_order

RUN_ID = "strict"


@pytest.fixture
def overdue_url(postgres) -> Iterator[str]:
    """A database with 40 orders that were accepted 30 s ago and have no outcome."""
    with postgres.fresh_database() as url:
        seed_recent(url, finished=0, running=40)
        with psycopg.connect(url) as connection:
            connection.execute(
                "update orders set run_id = 'paused', accepted_at = now() - interval '30 s',"
                " deadline_at = now() - interval '15 s', limit_at = now() - interval '15 s'"
            )
        yield url


async def counts_of(url: str, run_id: str | None = None) -> dict[str, tuple[int, int]]:
    """Return (late orders, counted orders) of each read model that counts them."""
    reader = reader_of(url)
    selection = Selection(run_id=run_id)
    async with Database(url) as database:
        report = await latency_report.latency_summary(database, LatencyFilter(run_id))
        audited = await audit_database(database, run_id)
    plan = latency.plan(reader, selection)
    finished = latency.summary(reader, plan) if plan else None
    overdue = latency.overdue_orders(reader, selection)
    reader.close()
    late, orders = (finished.late, finished.orders) if finished else (0, 0)
    return {
        "report": (report["late"], report["finished"] + report["overdue"]),
        "audit": (audited.late, audited.finished + audited.overdue),
        "page": (late + overdue, orders + overdue),
    }


async def test_orders_past_their_limit_count_as_late_in_every_read_model(overdue_url):
    for run_id in (None, "paused"):
        assert set((await counts_of(overdue_url, run_id)).values()) == {(40, 40)}
    assert set((await counts_of(overdue_url, "another")).values()) == {(0, 0)}
    reader = reader_of(overdue_url)
    assert live_orders.in_flight(reader).overdue == 40
    late = order_search.search(reader, Search(only_late=True), 50)
    assert len(late) == len(order_search.search(reader, Search(run_id="paused", only_late=True), 50)) == 40
    assert all(row["is_late"] for row in late)
    for state in State:
        found = order_search.search(reader, Search(state=state, only_late=True), 50)
        assert found == [row for row in late if row["state"] == state]
    assert len(order_search.search(reader, Search(prefix="seed-running", only_late=True), 50)) == 40
    now = datetime.now(UTC)
    for selection, orders in (
        (Selection(since=now - timedelta(hours=1)), 40),
        (Selection(until=now - timedelta(hours=1)), 0),
        (Selection(outcome=State.COMPLETED), 0),
        (Selection(fault_profile="none"), 40),
        (Selection(fault_profile="assignment"), 0),
    ):
        assert latency.overdue_orders(reader, selection) == orders
    reader.close()
    async with Database(overdue_url) as database:
        assert (await order_metrics.open_orders(database)).overdue == 40


@pytest.mark.parametrize("finished", [0, 30])
def test_the_pages_count_orders_past_their_limit(page: Pages, overdue_url, finished):
    if finished:
        seed(overdue_url, finished, days=1, progress=lambda _: None)
        with psycopg.connect(overdue_url) as connection:
            connection.execute("alter table orders disable trigger orders_reject_illegal_transition")
            connection.execute(
                "update orders set finished_at = now() - interval '1 s' where state >= 'completed'"
            )
    for name in ("latency", "overview"):
        test = page.run(name, overdue_url)
        assert not test.exception
        assert f"SLO breached: {finished} of {finished + 40} orders were within their limit" in texts(test)
    page.reset()


def test_the_latency_page_says_what_percentiles_and_charts_leave_out(page: Pages, overdue_url):
    test = page.run("latency", overdue_url)
    metrics = {metric.label: metric.value for metric in test.metric}
    assert (metrics["Orders"], metrics["Late"], metrics["p99"]) == ("40", "40", "–")
    assert "40 orders past the limit have no outcome yet." in texts(test)
    page.reset()


# --- A load test with its own limit -----------------------------------------------------------------


async def finish_orders(url: str) -> None:
    """Store a run with a limit of 3.9 s; orders of 5 s and of less than 1 s, of this run and of none."""
    runs.open_run(
        url,
        runs.NewRun(
            run_id=RUN_ID, scenario="mixed", options={"slo_seconds": 3.9, "slo_target": 0.4}, stages=[],
            fault_profile=None, fault_seed=None, started_at=datetime.now(UTC), commit_hash=None, machine={},
        ),
    )  # fmt: skip
    async with Database(url) as database:
        driver = OrderDriver(OrderRepository(database, "w", TEMPORAL), database)
        for run_id in (RUN_ID, "not-stored", None):
            for seconds in (0, 5):
                accepted_at = datetime.now(UTC) - timedelta(seconds=seconds)
                order_id = await driver.open(
                    new_order(order_id=f"{run_id}-{seconds}", run_id=run_id), accepted_at=accepted_at
                )
                await driver.abort(order_id)
                await driver.repository.finish(order_id, State.CANCELLED)
        accepted_at = datetime.now(UTC) - timedelta(seconds=5)
        for run_id in (RUN_ID, None):
            order = new_order(order_id=f"{run_id}-open", run_id=run_id, limit_seconds=3_600)
            await driver.open(order, accepted_at=accepted_at)


@pytest.fixture(scope="module")
def strict_url(postgres) -> Iterator[str]:
    with postgres.fresh_database() as url:
        asyncio.run(finish_orders(url))
        yield url


async def test_an_order_is_late_by_the_limit_of_its_load_test(strict_url):
    # One of 5 s, and one that is open for 5 s; without a limit of their own, the others have until 15 s.
    assert set((await counts_of(strict_url, RUN_ID)).values()) == {(2, 3)}
    assert set((await counts_of(strict_url, "not-stored")).values()) == {(0, 2)}
    assert set((await counts_of(strict_url)).values()) == {(2, 7)}


async def test_the_csv_has_the_limit_of_the_load_test_with_and_without_its_filter(strict_url):
    reader = reader_of(strict_url)
    for run_id in (RUN_ID, None):
        text = b"".join(latency_report.latency_csv(reader, Selection(run_id=run_id))).decode()
        within = {row["order_id"]: row["within_limit"] for row in csv.DictReader(io.StringIO(text))}
        assert (within[f"{RUN_ID}-0"], within[f"{RUN_ID}-5"]) == ("true", "false")
        assert run_id is not None or set(within.values()) == {"true", "false"} == {within["None-5"], "false"}
    reader.close()


def test_the_slo_of_a_run_is_that_of_its_options(strict_url):
    reader, default = reader_of(strict_url), Slo(15.0, 0.99)
    assert latency.slo_of(reader, RUN_ID, default) == Slo(3.9, 0.4)
    assert latency.slo_of(reader, None, default) == latency.slo_of(reader, "unknown", default) == default
    (row,) = stored_runs.running_runs(reader)
    assert (row["finished"], row["in_flight"], row["late"]) == (2, 1, 2)
    reader.close()


def test_the_latency_page_shows_a_run_by_its_limit_and_its_target(page: Pages, strict_url):
    text = texts(page.run("latency", strict_url, run=RUN_ID))
    assert "SLO breached: 1 of 3 orders were within their limit (33.33 %); the target is 40 %." in text
    assert "Limit: 3.9 s" in text
    of_all = texts(page.run("latency", strict_url))
    assert "5 of 7 orders were within their limit" in of_all
    assert "the target is 99 %" in of_all
    assert "Limit: 15 s" in of_all
    page.reset()


def test_the_order_page_shows_the_limit_of_the_load_test(page: Pages, strict_url):
    test = page.run("orders", strict_url, order=f"{RUN_ID}-5")
    assert "late" in [metric.delta for metric in test.metric]
    open_order = page.run("orders", strict_url, order=f"{RUN_ID}-open")
    assert "late" in [metric.delta for metric in open_order.metric]
    page.reset()


# --- Links ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "since", ["2030-01-01T00:00:00Z", "2030-01-01t02:00:00.5+02:00", "2030-01-01T02:00:00 02:00"]
)
def test_a_time_in_a_link_filters_the_page_and_its_export_alike(page: Pages, seeded_url, since):
    test = page.run("latency", seeded_url, since=since)
    assert not test.exception
    assert not test.error
    assert "No finished orders" in texts(test)
    assert test.session_state["since"] == datetime(2030, 1, 1)  # noqa: DTZ001  the widget has naive times
    selection = filters.selection_of(filters.check_query("latency", [("since", since)]))
    assert selection.since == datetime(2030, 1, 1, tzinfo=UTC)
    # A time before all orders filters none of them.
    test = page.run("latency", seeded_url, since=since.replace("2030", "2000"))
    assert "No finished orders" not in texts(test)
    assert test.session_state["since"] == datetime(2000, 1, 1)  # noqa: DTZ001


@pytest.mark.parametrize(
    ("name", "query", "message"),
    [
        (
            "latency",
            {"sinse": "2030-01-01T00:00:00Z"},
            "This page has no parameter 'sinse'; it has run",
        ),
        ("overview", {"window": "2 min"}, "Unknown time window: choose one of 1 min, 5 min, 15 min, 1 h."),
        ("orders", {"state": "shipped"}, "Unknown state: choose one of any, running, late"),
        ("orders", {"before": "nonsense"}, "'before' must be the cursor of another page."),
        ("orders", {"run": "my run"}, "A run id has 1 to 64 letters"),
        ("reviews", {"run": "a"}, "This page has no parameter 'run'; it has none."),
        ("load_tests", {"baseline": "my run"}, "A run id has 1 to 64 letters"),
        ("audit", {"run_id": "a"}, "This page has no parameter 'run_id'; it has run."),
    ],
)
def test_every_page_reports_a_parameter_that_it_cannot_use(page: Pages, seeded_url, name, query, message):
    test = page.run(name, seeded_url, **query)
    assert not test.exception
    (error,) = test.error
    assert error.value.replace("\\", "").startswith(message)
    assert not test.dataframe
    assert not test.metric
    next(button for button in test.button if button.label == "Remove filters").click().run()
    assert not test.error
