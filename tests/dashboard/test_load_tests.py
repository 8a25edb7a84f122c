"""The page Load tests: runs of whoever started them, any stored run, and what a look at it costs."""

import logging
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
import streamlit as st
from psycopg.rows import dict_row

from dashboard.sections import running_load_tests
from db import queries, runs
from db.read_models import stored_runs
from db.runs import NewRun
from loadtest.bench.seed import seed
from loadtest.options import RunOptions
from tests.dashboard.conftest import Pages, reader_of, said
from tests.servers import PostgresServer

STORED = 130

PLAINLY_COUNTED = """
select count(*) as accepted, count(*) filter (where state < 'completed') as in_flight,
    count(*) filter (where finished_at is not null) as finished,
    count(*) filter (where not within_limit or (state < 'completed' and deadline_at < now())) as late,
    max(accepted_at) as last_accepted_at
from orders where run_id = %s
"""


@pytest.fixture(autouse=True)
def quiet():
    logging.getLogger("streamlit").setLevel(logging.ERROR)


@pytest.fixture
def url(postgres: PostgresServer, page: Pages) -> Iterator[str]:
    """Empty books of the test's own."""
    with postgres.fresh_database() as url:
        yield url
        page.forget()


def begin(url: str, run_id: str, ago: timedelta = timedelta(0)) -> None:
    """Writes down a run that began so long ago, as the load generator does, and has no process here."""
    options = RunOptions.parse({"run_id": run_id, "rate": "3", "duration": "30s"}).to_json()
    began = datetime.now(UTC) - ago
    assert runs.open_run(
        url,
        NewRun(run_id, options["scenario"], options, options["stages"], "none", 1, began, None, {}),
    )


def pressed(test, label: str):
    next(button for button in test.button if button.label == label).click()
    return test.run()


def test_a_run_of_another_machine_is_shown_with_the_way_to_stop_it(page: Pages, url: str):
    begin(url, "from-elsewhere")
    begin(url, "broken-off", ago=timedelta(minutes=20))
    test = page.run("load_tests", url)
    assert not test.exception
    assert "from\\-elsewhere" in said(test)
    assert "broken\\-off" not in said(test)
    assert "stop it where it was started" in said(test)
    assert not [button for button in test.button if button.label == "Stop"]
    (link,) = test.get("link_button")
    assert link.proto.url.startswith("http://127.0.0.1:")


def test_no_run_is_started_beside_one_under_way(page: Pages, url: str, monkeypatch):
    begin(url, "from-elsewhere")
    monkeypatch.setattr(running_load_tests, "must_be", lambda _role: None)
    test = pressed(page.run("load_tests", url), "Start")
    assert not test.exception
    assert [error.value for error in test.error] == [
        "The run from\\-elsewhere is under way\\; wait for its verdict or stop it\\."
    ]


@pytest.mark.parametrize(
    ("began", "last_order", "alive"),
    [(10, None, True), (140, None, True), (160, None, False), (900, 20, True), (900, 200, False)],
)
def test_a_run_that_gives_no_sign_is_broken_off(began, last_order, alive):
    now = datetime(2026, 1, 31, 12, tzinfo=UTC)
    row = {
        "started_at": now - timedelta(seconds=began),
        "last_accepted_at": None if last_order is None else now - timedelta(seconds=last_order),
        "options": {"drain_seconds": 30.0},
    }
    assert running_load_tests.seems_alive(row, now) is alive


def test_every_stored_run_can_be_chosen_and_the_shelf_shows_more(page: Pages, url: str):
    for n in range(STORED):
        begin(url, f"stored-{n:03d}", ago=timedelta(days=2, minutes=n))
    test = page.run("load_tests", url)
    assert len(test.dataframe[0].value) == 100
    test = pressed(test, "Older runs")
    assert len(test.dataframe[0].value) == STORED
    assert not [button for button in test.button if button.label == "Older runs"]
    oldest = f"stored-{STORED - 1:03d}"
    test = page.run("load_tests", url, run=oldest)
    assert not test.exception
    assert test.selectbox(key="run").value == oldest
    assert f"**stored\\-{STORED - 1:03d}** has no verdict" in said(test)
    assert "There is no run nobody" in said(page.run("load_tests", url, run="nobody"))


def test_the_first_run_of_all_stands_in_the_address_when_its_verdict_is_shown(page: Pages, url: str):
    test = page.run("load_tests", url)
    begin(url, "first")
    st.cache_data.clear()
    # As "Show its verdict" leaves it.
    test.session_state[running_load_tests.WANTED] = "first"
    test.run()
    assert not test.exception
    assert test.query_params["run"] == "first"


def test_two_runs_are_read_and_compared_once(page: Pages, seeded_url: str, seeded, monkeypatch):
    asked: list[str] = []
    times = stored_runs.times

    def counted(reader, run_id):
        asked.append(run_id)
        return times(reader, run_id)

    one, other = (row["run_id"] for row in stored_runs.shelf(seeded, 2))
    monkeypatch.setattr(stored_runs, "times", counted)
    test = page.run("load_tests", seeded_url, run=one, beside=other)
    assert "Side by side" in said(test.run())
    assert asked == [one, other]


def test_runs_under_way_are_counted_without_a_look_at_what_is_finished(url: str):
    seed(url, 2_000, days=1, progress=lambda _: None)
    with psycopg.connect(url, row_factory=dict_row, autocommit=True) as connection:
        connection.execute("alter table orders disable trigger orders_never_step_back")
        connection.execute("update runs set ended_at = null, started_at = now()")
        # Some of their orders run again, one of them past its limit.
        connection.execute(
            "delete from latency_rollup;"
            "update orders set state = 'charged', abort_reason = null, finished_at = null,"
            " completion_ms = null, within_limit = null,"
            " deadline_at = now() + (r.n - 2) * interval '1 minute'"
            " from (select order_id, row_number() over () as n from orders where run_id is not null"
            " limit 40) r"
            " where orders.order_id = r.order_id;"
            "select rebuild_latency_rollup();"
        )
        connection.execute("vacuum (analyze) orders")
        reader = reader_of(url)
        found = stored_runs.under_way(reader)
        reader.close()
        assert found
        assert sum(row["in_flight"] for row in found) > 0
        for row in found:
            truth = connection.execute(PLAINLY_COUNTED, (row["run_id"],)).fetchone()
            assert {name: row[name] for name in truth} == truth
        statement = queries.load("stored_runs.sql")["under_way"]
        plan = connection.execute("explain (analyze, format json) " + statement).fetchone()
    seen = sum(rows_of_orders(plan["QUERY PLAN"][0]["Plan"]))
    assert seen <= 40 + len(found), "those in flight, and the newest of each run"


def rows_of_orders(node: dict) -> Iterator[float]:
    """How many rows each part of a plan has read from the orders."""
    if node.get("Relation Name") == "orders":
        yield node["Actual Loops"] * (node["Actual Rows"] + node.get("Rows Removed by Filter", 0))
    for child in node.get("Plans", []):
        yield from rows_of_orders(child)


def test_a_start_while_the_api_is_away_is_one_sentence_and_can_be_tried_again(page: Pages, seeded_url: str):
    test = page.run("load_tests", seeded_url)
    for _ in range(2):
        test = pressed(test, "Start")
        assert not test.exception
        assert [error.value for error in test.error] == [
            "The API does not answer\\; is the stack up\\? Try again shortly\\."
        ]
