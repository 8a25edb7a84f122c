"""Every page: without orders, with orders, without an API, and without a database."""

from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
from streamlit.testing.v1 import AppTest

from dashboard import page_elements
from dashboard.data import clients
from dashboard.data.load_test_processes import LoadTestProcesses
from db.read_models import latency
from db.read_models.latency import Selection
from db.read_only_database import ReadOnlyDatabase
from loadtest.bench.seed import seed_recent
from orchestrator.errors import UsageError
from orchestrator.settings import Settings
from tests.dashboard.conftest import NAMES, NO_API, SEEDED, Pages, metrics_of, plain, texts

NOWHERE = "postgresql://orders_reader@/orders?host=/nowhere&sslmode=disable"

INVALID_TIME = (
    "'since' and 'until' must be times such as 2026-01-31T12:00 or 2026-01-31T12:00:00Z, "
    "in the years 2000 to 2099."
)

EMPTY = {
    "overview": "No orders yet",
    "orders": "No matching orders",
    "reviews": "No orders awaiting review",
    "latency": "No finished orders",
    "load_tests": "No load tests yet",
    "audit": "No audit yet",
}


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_page_names_the_next_step(page: Pages, order_database_url, name):
    test = page.run(name, order_database_url)
    assert not test.exception
    assert not test.error
    assert EMPTY[name] in texts(test)


@pytest.mark.parametrize("name", NAMES)
def test_a_page_with_orders_shows_them(page: Pages, seeded_url, name):
    test = page.run(name, seeded_url)
    assert not test.exception
    assert not test.error
    if name not in ("overview", "audit", "reviews"):
        assert EMPTY[name] not in texts(test)


@pytest.mark.parametrize("name", NAMES)
def test_an_unavailable_database_shows_one_error_and_a_retry_button(page: Pages, name):
    test = page.run(name, NOWHERE)
    assert not test.exception
    assert test.error
    for error in test.error:
        assert error.value == "The database is not responding\\. Try again shortly\\."
    assert any(button.label == "Retry" for button in test.button)
    assert "Traceback" not in texts(test)
    assert "nowhere" not in texts(test)


def test_a_page_recovers_with_the_database(page: Pages, seeded_url, monkeypatch):
    test = page.run("orders", NOWHERE)
    assert test.error
    monkeypatch.setenv("DATABASE_URL", seeded_url)
    page.reset()
    next(button for button in test.button if button.label == "Retry").click()
    test.run()
    assert not test.error
    assert [table.key for table in test.dataframe if table.key == "orders-table-1"]


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ({"outcome": "nonsense"}, "Unknown outcome: choose one of completed, cancelled, failed."),
        (
            {"since": "yesterday"},
            INVALID_TIME,
        ),
        (
            {"until": "9999-12-31T23:59"},
            INVALID_TIME,
        ),
        ({"faults": "neverseen"}, "Unknown fault profile."),
    ],
)
def test_an_invalid_link_shows_only_an_error(page: Pages, seeded_url, query, message):
    test = page.run("latency", seeded_url, **query)
    assert not test.exception
    assert [plain(error.value) for error in test.error] == [message]
    assert not test.metric
    assert not test.selectbox
    next(button for button in test.button if button.label == "Remove filters").click().run()
    assert not test.error
    assert metrics_of(test)["Orders"] == f"{SEEDED:,}"


@pytest.mark.parametrize("name", ["orders", "latency", "load_tests", "audit"])
@pytest.mark.parametrize("typed", ["my run", "a\0b"])
def test_an_invalid_run_id_never_shows_all_orders(page: Pages, seeded_url, name, typed):
    test = page.run(name, seeded_url, run=typed)
    assert not test.exception
    assert not [table.key for table in test.dataframe if (table.key or "").startswith("orders-table-")]
    assert "Orders" not in [metric.label for metric in test.metric]
    if name == "latency":
        assert [error.value for error in test.error] == [
            "A run id has 1 to 64 letters\\, digits\\, \\'\\-\\' or \\'\\_\\'\\."
        ]


@pytest.mark.parametrize("button", ["Approve", "Reject"])
def test_a_review_without_an_api_shows_one_error_and_can_be_retried(page: Pages, postgres, button):
    with postgres.fresh_database() as url:
        seed_recent(url, finished=0, running=40)
        with psycopg.connect(url) as connection:
            connection.execute(
                "update orders set review = 'manual', abort_reason = null,"
                " deadline_at = now() + interval '1 hour'"
            )
        test = page.run("reviews", url)
        for _ in range(2):
            next(each for each in test.button if each.label == button).click()
            test.run()
            assert not test.exception
            assert [error.value for error in test.error] == [NO_API]
        page.reset()


def test_the_cards_below_the_first_screen_are_drawn_after_it(page: Pages, postgres, drawn: dict[str, bool]):
    def approvable(test) -> int:
        return sum(button.label == "Approve" for button in test.button)

    with postgres.fresh_database() as url:
        seed_recent(url, finished=0, running=40)
        drawn["is_drawn"] = False
        test = page.run("reviews", url)
        assert (approvable(test), len(test.get("skeleton"))) == (8, 1)
        drawn["is_drawn"] = True
        test.run()
        assert (approvable(test), len(test.get("skeleton"))) == (13, 0)
        page.reset()


def approve_button() -> None:
    """A page with a button whose action is counted. AppTest runs the source of this function."""
    import streamlit as st

    from dashboard.page_elements import result_of, run_action

    calls = st.session_state.setdefault("calls", [])
    st.button("Approve", on_click=run_action, args=("order", lambda: calls.append(1), "Approved."))
    st.session_state["result"] = result_of("order")


def test_the_second_click_of_a_double_click_does_nothing(monkeypatch):
    test = AppTest.from_function(approve_button).run()
    for _ in range(2):
        test.button[0].click().run()
    assert test.session_state["calls"] == [1]
    assert test.session_state["result"].text == "Approved."
    later = clients.now() + page_elements.DOUBLE_CLICK
    monkeypatch.setattr(clients, "now", lambda: later)
    test.button[0].click().run()
    assert test.session_state["calls"] == [1, 1]


def test_the_style_sheet_hides_an_action_result_at_the_same_time():
    style = Path(page_elements.__file__).with_suffix(".css").read_text()
    assert f"animation: action-result-expired 0s {page_elements.RESULT_VISIBLE.total_seconds():g}s" in style


def test_the_latency_page_shows_exact_values(page: Pages, seeded_url, seeded: ReadOnlyDatabase):
    summary = latency.summary(seeded, latency.plan(seeded, Selection()))
    shown = metrics_of(page.run("latency", seeded_url))
    assert shown["Orders"] == f"{SEEDED:,}"
    assert shown["Late"] == f"{summary.late:,}"
    assert shown["p99"] == f"{summary.times_ms[0.99] / 1000:,.3f} s"
    assert shown["Longest"] == f"{summary.times_ms[1.0] / 1000:,.3f} s"


def test_a_link_reproduces_the_latency_page(page: Pages, seeded_url, seeded: ReadOnlyDatabase):
    run_id = latency.run_names(seeded)[0]["run_id"]
    of_run = metrics_of(page.run("latency", seeded_url, run=run_id))
    truth = latency.summary(seeded, latency.plan(seeded, Selection(run_id=run_id)))
    assert of_run["Orders"] == f"{truth.orders:,}"
    failed = metrics_of(page.run("latency", seeded_url, outcome="failed", faults="none"))
    assert int(failed["Orders"].replace(",", "")) < SEEDED / 10
    plan = latency.plan(seeded, Selection())
    since = (plan.since + timedelta(hours=30)).strftime("%Y-%m-%dT%H:%M")
    later = metrics_of(page.run("latency", seeded_url, since=since))
    truth = latency.summary(seeded, latency.plan(seeded, Selection(since=plan.since + timedelta(hours=30))))
    assert later["Orders"] == f"{truth.orders:,}"


def test_two_runs_are_compared(page: Pages, seeded_url, seeded: ReadOnlyDatabase):
    one, other = (row["run_id"] for row in latency.run_names(seeded)[:2])
    test = page.run("load_tests", seeded_url, run=one, baseline=other)
    assert not test.exception
    assert "Comparison" in texts(test)
    columns = [set(table.value.columns) for table in test.dataframe]
    assert any({"difference"} <= each for each in columns), columns


def test_load_test_processes_reject_invalid_options(tmp_path):
    processes = LoadTestProcesses(Settings(orders_home=tmp_path, port_base=None))
    with pytest.raises(UsageError, match="Unknown scenario"):
        processes.start({"scenario": "nonsense"})
    assert processes.running() == []
    assert processes.reports("unknown") == []
    written = ("locust_exceptions.csv", "locust_failures.csv", "verdict.json")
    directory = tmp_path / "reports" / "finished"
    directory.mkdir(parents=True)
    for name in written:
        (directory / name).touch()
    assert sorted(file.name for file in processes.reports("finished")) == sorted(written)
    assert processes.output("unknown") == ""
