"""The page of one load test: time axis, orders of a second, causes, properties; and the trend of all runs."""

import logging
from datetime import UTC, datetime, timedelta

import pytest
from streamlit.testing.v1 import AppTest

from dashboard.data import clients
from dashboard.sections.run import properties
from dashboard.sections.start_load_test import ADVANCED_FIELDS, FIELDS
from db.read_models import stored_runs
from db.read_only_database import ReadOnlyDatabase
from loadtest.charts.palette import LIGHT
from loadtest.charts.run.trend import trend
from loadtest.options import OPTIONS
from orchestrator.errors import RunInProgress
from tests.dashboard.conftest import Pages, figures_of, query, texts


@pytest.fixture(autouse=True)
def silence_logs():
    logging.getLogger("streamlit").setLevel(logging.ERROR)


@pytest.fixture
def late_run(seeded_url: str) -> str:
    """The run with the most late orders."""
    return query(seeded_url, "select run_id from runs order by late_orders desc limit 1")[0]["run_id"]


def click(test: AppTest, label: str) -> AppTest:
    next(button for button in test.button if button.label == label).click()
    return test.run()


def test_a_run_has_a_time_axis_and_a_waterfall(page: Pages, seeded_url: str, late_run: str):
    test = page.run("load_tests", seeded_url, run=late_run)
    assert not test.exception
    assert not test.error
    headings = [each.value for each in test.subheader]
    assert headings == ["Course over time", "Why late?", "Compare with another run"]
    assert list(figures_of(test)) == ["run-time-axis", "why-late"]
    assert "late order" in texts(test)
    assert "more than on\\-time orders" in texts(test)


def test_the_causes_are_drawn_after_the_first_screen(
    page: Pages, seeded_url: str, late_run: str, drawn: dict[str, bool]
):
    drawn["is_drawn"] = False
    test = page.run("load_tests", seeded_url, run=late_run)
    assert (len(figures_of(test)), len(test.get("skeleton"))) == (1, 1)
    drawn["is_drawn"] = True
    test.run()
    assert (len(figures_of(test)), len(test.get("skeleton"))) == (2, 0)


def test_a_second_lists_its_orders(page: Pages, seeded_url: str, late_run: str):
    test = page.run("load_tests", seeded_url, run=late_run, second="100")
    assert not test.exception
    (table,) = test.dataframe
    since = query(seeded_url, "select started_at from runs where run_id = %(run)s", {"run": late_run})[0]
    begin = since["started_at"] + timedelta(seconds=100)
    truth = query(
        seeded_url,
        "select order_id from orders where run_id = %(run)s and accepted_at < %(until)s"
        " and finished_at >= %(since)s order by accepted_at desc, order_id desc",
        {"run": late_run, "since": begin, "until": begin + timedelta(seconds=1)},
    )
    assert list(table.value["order"]) == [row["order_id"] for row in truth]
    assert "Second +100 s" in texts(test)
    assert test.number_input(key="second").value == 100


def test_a_second_that_cannot_be_read_is_reported(page: Pages, seeded_url: str, late_run: str):
    test = page.run("load_tests", seeded_url, run=late_run, second="soon")
    assert "'second' must be a second of the run" in test.error[0].value.replace("\\", "")


def test_the_pinned_baseline_is_the_default_of_the_comparison(
    page: Pages, seeded_url: str, seeded: ReadOnlyDatabase, late_run: str, monkeypatch
):
    rows = stored_runs.newest_runs(seeded, 10)
    pinned = next(row for row in rows if row["run_id"] != late_run)
    rows = [row | {"is_baseline": row is pinned} for row in rows]
    monkeypatch.setattr(stored_runs, "newest_runs", lambda _reader, _limit: rows)
    test = page.run("load_tests", seeded_url, run=late_run)
    assert not test.exception
    assert "Comparison" in [each.value for each in test.subheader]
    assert test.selectbox(key="baseline").value is None
    assert f"compared with {pinned['run_id']}" in texts(test).replace("\\", "")


class FakeApi:
    """Records the changes of runs."""

    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []

    def change_run(self, run_id: str, changes: dict) -> None:
        self.calls.append((run_id, changes))

    def delete_run(self, run_id: str) -> None:
        self.calls.append((run_id,))
        if run_id == "running":
            raise RunInProgress


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> FakeApi:
    fake = FakeApi()
    monkeypatch.setattr(clients, "api", lambda: fake)
    monkeypatch.setattr(properties, "user_may", lambda _role: True)
    return fake


def test_label_notes_and_baseline_are_changed_through_the_api(
    page: Pages, seeded_url, late_run, api: FakeApi
):
    test = page.run("load_tests", seeded_url, run=late_run)
    next(each for each in test.text_input if each.label == "Label").set_value(" quiet hour ")
    test = click(test, "Save")
    assert not test.exception
    assert [each.value for each in test.success] == ["Saved."]
    click(test, "Pin as baseline")
    assert api.calls == [
        (late_run, {"label": "quiet hour"}),
        (late_run, {"is_baseline": True}),
    ]


def test_deleting_a_run_says_what_stays_and_returns_to_the_list(
    page: Pages, seeded_url, late_run, api: FakeApi
):
    # A parameter that is bound to a widget does not prevent it.
    test = page.run("load_tests", seeded_url, run=late_run, second="3")
    assert "Its orders with their events and payments, and its report files, stay" in texts(test)
    test = click(test, "Delete this run")
    assert not test.exception
    assert api.calls == [(late_run,)]
    assert test.title[0].value == "Load tests"
    assert test.query_params == {}
    assert "Its orders stay" in test.success[0].value


def test_a_run_that_is_not_deleted_stays_open(page: Pages, seeded_url, late_run, api: FakeApi, monkeypatch):
    monkeypatch.setattr(api, "delete_run", lambda _run: FakeApi().delete_run("running"))
    test = click(page.run("load_tests", seeded_url, run=late_run), "Delete this run")
    assert [each.value for each in test.error] == [
        "The run is in progress\\. Stop it\\, or wait for its verdict\\."
    ]
    assert test.query_params["run"] == late_run


def test_a_viewer_cannot_change_a_run(page: Pages, seeded_url: str, late_run: str, monkeypatch):
    monkeypatch.setattr(properties, "user_may", lambda _role: False)
    labels = {button.label for button in page.run("load_tests", seeded_url, run=late_run).button}
    assert labels.isdisjoint({"Save", "Pin as baseline", "Delete this run"})


def test_the_form_has_every_option_of_the_command_line():
    assert sorted((*FIELDS, *ADVANCED_FIELDS)) == sorted(OPTIONS)


def test_each_invalid_option_is_reported_at_its_field(page: Pages, seeded_url: str):
    test = page.run("load_tests", seeded_url)
    test.text_input(key="load-test-rate").set_value("fast")
    test.text_input(key="load-test-slo_target").set_value("99")
    test.text_input(key="load-test-drain_seconds").set_value("-1")
    test = click(test, "Start")
    assert not test.exception
    problems = [each.value.replace("\\", "") for each in test.markdown if each.value.startswith(":red[")]
    assert len(problems) == 3
    assert "rate must be a number of orders per second" in problems[0]
    assert "slo-target must be between 0 and 1" in problems[1]
    assert "drain-seconds must be a number of seconds" in problems[2]
    assert not test.error


def rows() -> list[dict]:
    at = datetime(2026, 1, 31, 12, tzinfo=UTC)
    shared = {"label": None, "is_baseline": False, "verdict": "passed", "scenario": "mixed", "p50_ms": 2000.0}
    return [
        shared | {
            "run_id": f"run-{n}", "started_at": at - timedelta(hours=n), "p99_ms": 9000.0 + n,
            "counted_orders": 100 - n, "late_orders": n, "completed_rate": 3.0 + n,
        }
        for n in range(3)
    ]  # fmt: skip


def test_the_trend_has_a_point_for_each_verdict_in_order_of_time():
    given = rows()
    given[0]["verdict"] = None
    given[1]["is_baseline"] = True
    figure = trend(given, LIGHT)
    series = {trace.name: trace for trace in figure.data}
    assert list(series["p50, s"].customdata) == ["run-2", "run-1"]
    assert list(series["p99, s"].y) == [None, None], "98 and 99 orders are too few for a p99"
    assert list(series["late, %"].y) == [100 * 2 / 98, 100 * 1 / 99]
    assert list(series["outcomes / s"].y) == [5.0, 4.0]
    assert {shape.y0 for shape in figure.layout.shapes} == {2.0, 100 / 99, 4.0}, "the baseline"
    assert list(series["p50, s"].marker.symbol) == ["circle", "star"]


def test_a_trend_without_verdicts_is_empty():
    assert all(not trace.x for trace in trend([], LIGHT).data)
