"""The Load tests page: runs in progress, stored runs, comparison, and the cost of its queries."""

import json
import logging
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from dashboard.sections import running_load_tests
from db import queries, runs
from db.read_models import stored_runs
from db.runs import NewRun, RunResult
from loadtest.bench.seed import seed
from loadtest.options import RunOptions
from orchestrator.embedded.layout import PROJECT_ROOT
from tests.dashboard.conftest import Pages, reader_of, texts
from tests.load.records import records, verdict_of
from tests.servers import PostgresServer

STORED = 130

COUNTS = """
select count(*) as accepted, count(*) filter (where state < 'completed') as in_flight,
    count(*) filter (where finished_at is not null) as finished,
    count(*) filter (where not within_limit or (state < 'completed' and limit_at < now())) as late,
    max(accepted_at) as last_accepted_at
from orders where run_id = %s
"""


@pytest.fixture(autouse=True)
def silence_logs():
    logging.getLogger("streamlit").setLevel(logging.ERROR)


@pytest.fixture
def url(postgres: PostgresServer, page: Pages) -> Iterator[str]:
    """An empty database for one test."""
    with postgres.fresh_database() as url:
        yield url
        page.reset()


def store_run(url: str, run_id: str, ago: timedelta = timedelta(0)) -> None:
    """Store a run that started `ago`, as the load generator does, without a process on this machine."""
    options = RunOptions.parse({"run_id": run_id, "rate": "3", "duration": "30s"}).to_json()
    started_at = datetime.now(UTC) - ago
    assert runs.open_run(
        url,
        NewRun(run_id, options["scenario"], options, options["stages"], "none", 1, started_at, None, {}),
    )


def click(test, label: str):
    next(button for button in test.button if button.label == label).click()
    return test.run()


def test_a_run_of_another_machine_is_shown_without_a_stop_button(page: Pages, url: str):
    store_run(url, "remote-run")
    store_run(url, "aborted-run", ago=timedelta(minutes=20))
    test = page.run("load_tests", url)
    assert not test.exception
    assert [link.proto.label for link in test.get("page_link")] == ["remote-run"]
    assert list(test.dataframe[0].value["verdict"]) == ["in progress", "aborted"]
    assert "Stop it in its shell or in the Locust web UI" in texts(test)
    assert not [button for button in test.button if button.label == "Stop"]
    (link,) = test.get("link_button")
    assert link.proto.url.startswith("http://127.0.0.1:")


def test_the_page_of_a_run_in_progress_shows_its_progress(page: Pages, url: str):
    store_run(url, "remote-run")
    test = page.run("load_tests", url, run="remote-run")
    assert not test.exception
    assert {metric.label: metric.value for metric in test.metric} == {
        "Accepted": "0", "In flight": "0", "Finished": "0", "Late": "0",
    }  # fmt: skip
    assert test.toggle(key="live").value
    assert [each.value for each in test.subheader] == ["Course over time"]
    assert "No orders yet" in texts(test)


def test_no_run_is_started_while_another_is_in_progress(page: Pages, url: str, monkeypatch):
    store_run(url, "remote-run")
    monkeypatch.setattr(running_load_tests, "require_role", lambda _role: None)
    test = click(page.run("load_tests", url), "Start")
    assert not test.exception
    assert [error.value for error in test.error] == [
        "Run remote\\-run is in progress\\; wait for its verdict or stop it\\."
    ]


@pytest.mark.parametrize(
    ("started", "last_order", "is_in_progress"),
    [(10, None, True), (140, None, True), (160, None, False), (900, 20, True), (900, 200, False)],
)
def test_a_run_without_activity_is_aborted(started, last_order, is_in_progress):
    now = datetime(2026, 1, 31, 12, tzinfo=UTC)
    row = {
        "started_at": now - timedelta(seconds=started),
        "last_accepted_at": None if last_order is None else now - timedelta(seconds=last_order),
        "options": {"drain_seconds": 30.0},
    }
    assert running_load_tests.is_in_progress(row, now) is is_in_progress


def test_every_stored_run_has_a_page_and_older_runs_can_be_shown(page: Pages, url: str):
    for n in range(STORED):
        store_run(url, f"stored-{n:03d}", ago=timedelta(days=2, minutes=n))
    test = page.run("load_tests", url)
    assert len(test.dataframe[0].value) == 100
    test = click(test, "Older runs")
    assert len(test.dataframe[0].value) == STORED
    assert not [button for button in test.button if button.label == "Older runs"]
    test = page.run("load_tests", url, run=f"stored-{STORED - 1:03d}")
    assert not test.exception
    assert test.title[0].value == f"Load test stored\\-{STORED - 1:03d}"
    assert f"**stored\\-{STORED - 1:03d}** was aborted" in test.warning[0].value
    assert "live" not in test.session_state
    assert "Run unknown not found" in texts(page.run("load_tests", url, run="unknown"))
    assert not click(test, "All load tests").query_params


def test_a_comparison_is_cached(page: Pages, seeded_url: str, seeded, monkeypatch):
    read: list[str] = []
    times = stored_runs.times

    def counted(database, run_id):
        read.append(run_id)
        return times(database, run_id)

    one, other = (row["run_id"] for row in stored_runs.newest_runs(seeded, 2))
    monkeypatch.setattr(stored_runs, "times", counted)
    test = page.run("load_tests", seeded_url, run=one, baseline=other)
    assert "Comparison" in texts(test.run())
    assert read == [one, other]


@pytest.mark.parametrize(
    ("code", "color"), [(0, "green"), (1, "red"), (3, "red"), (4, "red"), (5, "gray"), (6, "red")]
)
def test_the_badge_of_a_verdict_is_red_only_for_a_failure(page: Pages, url: str, code: int, color: str):
    report = verdict_of(records(400)).report | {"exit_code": code, "verdict": "text of the verdict"}
    with psycopg.connect(url) as connection:
        connection.execute(
            "insert into runs (run_id, scenario, ended_at, verdict) values ('judged', 'mixed', now(), %s)",
            (Jsonb(report),),
        )
    test = page.run("load_tests", url, run="judged")
    (badge,) = [each.value for each in test.markdown if "text of the verdict" in each.value]
    assert badge.startswith(f":{color}-badge[")


@pytest.mark.parametrize(
    ("aborted", "sentence"), [(1, "1 run without a verdict."), (2, "2 runs without a verdict.")]
)
def test_the_trend_says_how_many_runs_it_leaves_out(page: Pages, url: str, aborted: int, sentence: str):
    report = Jsonb(verdict_of(records(400)).report)
    with psycopg.connect(url) as connection:
        for n in range(2):
            connection.execute(
                "insert into runs (run_id, scenario, ended_at, verdict) values (%s, 'mixed', now(), %s)",
                (f"judged-{n}", report),
            )
    for n in range(aborted):
        store_run(url, f"aborted-{n}", ago=timedelta(minutes=20))
    test = page.run("load_tests", url)
    (caption,) = [each.value for each in test.caption if each.value.startswith("Click a point")]
    assert caption.endswith(f" Not drawn: {sentence}")


def test_running_runs_are_counted_without_reading_finished_orders(url: str):
    seed(url, 2_000, days=1, progress=lambda _: None)
    with psycopg.connect(url, row_factory=dict_row, autocommit=True) as connection:
        connection.execute("alter table orders disable trigger orders_reject_illegal_transition")
        connection.execute("update runs set ended_at = null, started_at = now()")
        # Set some of their orders to running, one of them past its limit.
        connection.execute(
            "delete from latency_rollup;"
            "update orders set state = 'charged', abort_reason = null, finished_at = null,"
            " completion_ms = null, within_limit = null,"
            " limit_at = now() + (r.n - 2) * interval '1 minute'"
            " from (select order_id, row_number() over () as n from orders where run_id is not null"
            " limit 40) r"
            " where orders.order_id = r.order_id;"
            "select rebuild_latency_rollup();"
        )
        connection.execute("vacuum (analyze) orders")
        database = reader_of(url)
        found = stored_runs.running_runs(database)
        database.close()
        assert found
        assert sum(row["in_flight"] for row in found) > 0
        for row in found:
            truth = connection.execute(COUNTS, (row["run_id"],)).fetchone()
            assert {name: row[name] for name in truth} == truth
        statement = queries.load("stored_runs.sql")["running_runs"]
        plan = connection.execute("explain (analyze, format json) " + statement).fetchone()
    rows_read = sum(rows_of_orders(plan["QUERY PLAN"][0]["Plan"]))
    assert rows_read <= 40 + len(found), "orders in flight, and the newest order of each run"


def rows_of_orders(node: dict) -> Iterator[float]:
    """Yield the number of rows that each node of a plan has read from `orders`."""
    if node.get("Relation Name") == "orders":
        yield node["Actual Loops"] * (node["Actual Rows"] + node.get("Rows Removed by Filter", 0))
    for child in node.get("Plans", []):
        yield from rows_of_orders(child)


def test_a_start_without_an_api_shows_one_error_and_can_be_retried(page: Pages, seeded_url: str):
    test = page.run("load_tests", seeded_url)
    for _ in range(2):
        test = click(test, "Start")
        assert not test.exception
        assert [error.value for error in test.error] == [
            "No connection to the API\\: start the stack with \\`make up\\`\\."
        ]


@pytest.mark.parametrize(("name", "words"), [("first", "400 of 400 orders sent"), ("newer", "newer version")])
def test_verdicts_of_other_versions_are_shown(page: Pages, url: str, name: str, words: str):
    first = json.loads((PROJECT_ROOT / "tests/load/verdict-schema-1.json").read_text())
    newer = {"schema_version": 99, "run_id": "newer", "verdict": "passed", "exit_code": 0}
    for run_id, verdict in (("first", first), ("newer", newer)):
        store_run(url, run_id)
        result = RunResult(datetime.now(UTC), [], verdict, [], [1000, 2000], 0, 2)
        runs.close_run(url, run_id, result)
    test = page.run("load_tests", url, run=name, baseline="first" if name == "newer" else "newer")
    assert not test.exception
    warnings = [warning.value for warning in test.warning]
    assert words in texts(test) + "".join(warnings)
    assert "newer version of this software" in warnings[-1], "the comparison says why there is none"
