"""Each page as its viewer meets it: empty, with orders, with the API away, and with the database away."""

import itertools
import json
import logging
from datetime import timedelta

import psycopg
import pytest

from dashboard import layout
from dashboard.data import clients
from dashboard.data.audit_jobs import AuditJobs
from dashboard.data.load_test_processes import LoadRunner
from db.read_models import latency, order_search
from db.read_models.latency import Selection
from db.read_models.order_search import Search
from db.read_only_database import ReadOnlyDatabase
from loadtest.bench.seed import seed, seed_now, some_ids
from orchestrator.errors import UsageError
from orchestrator.settings import Settings
from tests.dashboard.conftest import NAMES, SEEDED, Pages, said

AWAY = "The API does not answer\\; is the stack up\\? Try again shortly\\."
NOWHERE = "postgresql://orders_reader@/orders?host=/nowhere&sslmode=disable"

EMPTY = {
    "overview": "No order yet",
    "orders": "No such order",
    "reviews": "Nobody waits for a review",
    "latency": "No finished order here",
    "load_tests": "No load test yet",
    "audit": "Not audited yet",
}


def plain(markdown: str) -> str:
    return markdown.replace("\\", "")


@pytest.fixture(autouse=True)
def quiet():
    """Neither the missing browser nor the database that is away on purpose is news."""
    for name in ("streamlit", "psycopg.pool"):
        logging.getLogger(name).setLevel(logging.ERROR)


@pytest.fixture(autouse=True)
def unaudited(monkeypatch):
    """Audits that a page begins by itself have tests of their own; no API would answer them here."""
    monkeypatch.setattr(AuditJobs, "begin_at_sight", lambda *_: None)


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_page_says_what_to_do_next(page: Pages, order_database_url, name):
    test = page.run(name, order_database_url)
    assert not test.exception
    assert not test.error
    assert EMPTY[name] in said(test)


@pytest.mark.parametrize("name", NAMES)
def test_a_page_with_orders_shows_them(page: Pages, seeded_url, name):
    test = page.run(name, seeded_url)
    assert not test.exception
    assert not test.error
    if name not in ("overview", "audit", "reviews"):
        assert EMPTY[name] not in said(test)


# The form of a load test asks nobody.
@pytest.mark.parametrize("name", NAMES)
def test_a_database_that_is_away_is_one_sentence_with_a_retry(page: Pages, name):
    test = page.run(name, NOWHERE)
    assert not test.exception
    assert test.error
    for error in test.error:
        assert error.value == "The database does not answer; try again shortly\\.".replace(";", "\\;"), (
            error.value
        )
    assert any(button.label == "Try again" for button in test.button)
    assert "Traceback" not in said(test)
    assert "nowhere" not in said(test)


def test_a_page_comes_back_with_the_database(page: Pages, seeded_url, monkeypatch):
    test = page.run("orders", NOWHERE)
    assert test.error
    monkeypatch.setenv("DATABASE_URL", seeded_url)
    page.forget()
    next(button for button in test.button if button.label == "Try again").click()
    test.run()
    assert not test.error
    assert "orders-table" in [table.key for table in test.dataframe]


def test_now_shows_the_parts_as_unknown_while_the_api_is_away(page: Pages, seeded_url):
    test = page.run("overview", seeded_url)
    text = said(test)
    assert "does not answer" in text
    assert "unknown while the API is away" in text


def test_a_switch_of_faults_that_cannot_reach_the_api_is_told(page: Pages, seeded_url):
    test = page.run("overview", seeded_url)
    test.selectbox(key="fault-profile").set_value("outage")
    next(button for button in test.button if button.label == "Put in force").click()
    test.run()
    assert not test.exception
    assert [error.value for error in test.error] == [AWAY]


def test_a_start_that_cannot_reach_the_api_is_told(page: Pages, seeded_url):
    test = page.run("orders", seeded_url)
    next(button for button in test.button if button.label == "Start").click()
    test.run()
    assert not test.exception
    assert [error.value for error in test.error if "API does not answer" in error.value]


def test_the_start_form_says_what_is_wrong(page: Pages, seeded_url):
    test = page.run("orders", seeded_url)
    next(field for field in test.text_input if field.label == "Street").set_value("")
    next(field for field in test.text_input if field.label == "Order id").set_value("not an id")
    next(button for button in test.button if button.label == "Start").click()
    test.run()
    assert [error.value for error in test.error][:1] == ["Street is empty\\."]
    assert len(test.error) == 2


def test_an_order_that_nobody_knows_is_not_an_error(page: Pages, seeded_url):
    test = page.run("orders", seeded_url, order="no<b>body</b>")
    assert not test.exception
    assert "The books do not know this order" in said(test)
    assert "no\\<b\\>body\\<\\/b\\>" in said(test)


def test_an_order_that_was_just_started_is_shown_once_the_books_know_it(page: Pages, seeded_url, monkeypatch):
    (order_id,) = some_ids(seeded_url, 1)
    real, looks = order_search.order_details, itertools.count()
    monkeypatch.setattr(order_search, "order_record", lambda *asked: real(*asked) if next(looks) else None)
    test = page.run("orders", seeded_url, order=order_id)
    assert not test.exception
    assert "The books do not know this order" not in said(test)
    assert any(metric.label == "State" for metric in test.metric)


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ({"outcome": "nonsense"}, "There is no such outcome."),
        ({"since": "yesterday"}, "'since' is no time like 2026-01-31T12:00, from 2000 to 2099."),
        ({"until": "9999-12-31T23:59"}, "'until' is no time like 2026-01-31T12:00, from 2000 to 2099."),
        ({"faults": "neverseen"}, "No such fault profile was ever in force."),
    ],
)
def test_a_link_that_cannot_be_read_is_a_sentence_and_shows_nothing_else(
    page: Pages, seeded_url, query, told
):
    test = page.run("latency", seeded_url, **query)
    assert not test.exception
    assert [plain(error.value) for error in test.error] == [told]
    assert not test.metric
    assert not test.selectbox
    next(button for button in test.button if button.label == "Show all orders").click().run()
    assert not test.error
    assert metrics_of(test)["Orders"] == f"{SEEDED:,}"


@pytest.mark.parametrize("name", ["orders", "latency", "load_tests", "audit"])
@pytest.mark.parametrize("typed", ["my run", "a\0b"])
def test_a_run_that_cannot_be_is_never_all_orders(page: Pages, seeded_url, name, typed):
    test = page.run(name, seeded_url, run=typed)
    assert not test.exception
    assert "orders-table" not in [table.key for table in test.dataframe]
    assert "Orders" not in [metric.label for metric in test.metric]
    if name == "latency":
        assert [error.value for error in test.error] == [
            "A run\\'s id is 1 to 64 letters\\, digits\\, \\'\\-\\' or \\'\\_\\'\\."
        ]


@pytest.mark.parametrize("button", ["Approve", "Reject"])
def test_a_decision_while_the_api_is_away_is_one_sentence_and_can_be_taken_again(
    page: Pages, postgres, button
):
    with postgres.fresh_database() as url:
        seed_now(url, finished=0, running=40)
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
            assert [error.value for error in test.error] == [AWAY]
        page.forget()


def test_an_answer_outlives_the_next_run_and_goes_after_its_time(
    page: Pages, order_database_url, monkeypatch
):
    test = page.run("overview", order_database_url)
    next(button for button in test.button if button.label == "Put in force").click()
    test.run()
    for _ in range(2):
        assert [error.value for error in test.error] == [AWAY]
        test.run()
    later = clients.now() + layout.ANSWER_STAYS
    monkeypatch.setattr(clients, "now", lambda: later)
    test.run()
    assert not test.error


@pytest.mark.parametrize(
    ("setting", "origin"), [("https://temporal.example.com", "https://temporal.example.com"), ("", None)]
)
def test_an_order_links_to_the_ui_of_an_external_temporal(
    page: Pages, seeded_url, seeded, monkeypatch, setting, origin
):
    monkeypatch.setenv("TEMPORAL_ADDRESS", "temporal.invalid:7233")
    monkeypatch.setenv("TEMPORAL_UI_ORIGIN", setting)
    order = order_search.search(seeded, Search(), 1)[0]["order_id"]
    links = page.run("orders", seeded_url, order=order).get("link_button")
    assert [link.proto.url.partition("/history")[0].rpartition("/")[0] for link in links] == (
        [f"{origin}/namespaces/default/workflows/order-{order}"] if origin else []
    )


def test_a_click_opens_the_order_that_was_clicked_though_another_comes_in(page: Pages, postgres):
    with postgres.fresh_database() as url:
        seed(url, 20, days=1, progress=lambda _: None)
        test = page.run("orders", url)
        (table,) = (each for each in test.dataframe if each.key == "orders-table")
        clicked = table.value["order"].iloc[1]
        seed_now(url, finished=1, running=3)
        states = test._tree.get_widget_states()
        choice = states.widgets.add()
        choice.id, choice.string_value = table.proto.id, json.dumps({"selection": {"rows": [1]}})
        test._run(states)
        page.forget()
    assert test.query_params["order"] == clicked
    assert clicked in plain(test.title[0].value)


def test_the_order_page_shows_its_figures(page: Pages, seeded_url, seeded: ReadOnlyDatabase):
    how = latency.plan(seeded, Selection())
    row = latency.slowest(seeded, how, latency.buckets(seeded, how), 1)[0]
    test = page.run("orders", seeded_url, order=row["order_id"])
    figures = {metric.label: metric.value for metric in test.metric}
    assert figures["State"] == row["outcome"]
    assert figures["Time"] == f"{row['completion_ms'] / 1000:,.3f} s"
    assert not [button for button in test.button if button.label in ("Approve", "Reject")]
    assert len(test.get("plotly_chart")) == 1


def test_an_order_whose_events_were_dropped_shows_its_books(page: Pages, postgres):
    with postgres.fresh_database() as url:
        seed(url, 20, days=1, progress=lambda _: None)
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("delete from events")
            order_id, state = connection.execute("select order_id, state from orders limit 1").fetchone()
        test = page.run("orders", url, order=order_id)
        page.forget()
    assert not test.exception
    assert not test.error
    assert "have been dropped" in " ".join(info.value for info in test.info)
    assert metrics_of(test)["State"] == state
    assert any("charged" in table.value.to_string() for table in test.dataframe)
    assert not test.get("plotly_chart")


def metrics_of(test) -> dict[str, str]:
    return {metric.label: metric.value for metric in test.metric}


def test_the_latency_page_shows_exactly_what_the_books_say(page: Pages, seeded_url, seeded: ReadOnlyDatabase):
    summary = latency.summary(seeded, latency.plan(seeded, Selection()))
    shown = metrics_of(page.run("latency", seeded_url))
    assert shown["Orders"] == f"{SEEDED:,}"
    assert shown["Late"] == f"{summary.late:,}"
    assert shown["p99"] == f"{summary.times_ms[0.99] / 1000:,.3f} s"
    assert shown["Longest"] == f"{summary.times_ms[1.0] / 1000:,.3f} s"


def test_the_tiles_of_now_equal_plain_sql(page: Pages, postgres):
    with postgres.fresh_database() as url:
        seed(url, 200, days=1, progress=lambda _: None)
        seed_now(url, finished=150, running=7)
        shown = metrics_of(page.run("overview", url, window="1 h"))
        with psycopg.connect(url) as connection:
            truth = connection.execute(
                "select count(*) filter (where finished_at is null),"
                " count(*) filter (where state = 'completed' and lately),"
                " count(*) filter (where state = 'cancelled' and lately),"
                " percentile_disc(0.95) within group (order by completion_ms) filter (where lately),"
                " max(completion_ms) filter (where lately)"
                " from (select *, finished_at >= now() - interval '1 hour' as lately from orders) o"
            ).fetchone()
        page.forget()
    in_flight, completed, cancelled, p95_ms, longest_ms = truth
    assert (in_flight, completed + cancelled > 100) == (7, True)
    assert shown["In flight"] == f"{in_flight:,}"
    assert (shown["Completed"], shown["Cancelled"]) == (f"{completed:,}", f"{cancelled:,}")
    assert (shown["p95"], shown["Longest"]) == (f"{p95_ms / 1000:,.3f} s", f"{longest_ms / 1000:,.3f} s")


def test_a_link_reproduces_the_latency_page(page: Pages, seeded_url, seeded: ReadOnlyDatabase):
    run_id = latency.run_names(seeded)[0]["run_id"]
    of_run = metrics_of(page.run("latency", seeded_url, run=run_id))
    truth = latency.summary(seeded, latency.plan(seeded, Selection(run_id=run_id)))
    assert of_run["Orders"] == f"{truth.orders:,}"
    failed = metrics_of(page.run("latency", seeded_url, outcome="failed", faults="none"))
    assert int(failed["Orders"].replace(",", "")) < SEEDED / 10
    how = latency.plan(seeded, Selection())
    since = (how.since + timedelta(hours=30)).strftime("%Y-%m-%dT%H:%M")
    later = metrics_of(page.run("latency", seeded_url, since=since))
    truth = latency.summary(seeded, latency.plan(seeded, Selection(since=how.since + timedelta(hours=30))))
    assert later["Orders"] == f"{truth.orders:,}"


def test_two_runs_are_compared(page: Pages, seeded_url, seeded: ReadOnlyDatabase):
    one, other = (row["run_id"] for row in latency.run_names(seeded)[:2])
    test = page.run("load_tests", seeded_url, run=one, beside=other)
    assert not test.exception
    assert "Side by side" in said(test)
    columns = [set(table.value.columns) for table in test.dataframe]
    assert any({"run", "verdict"} <= each for each in columns), columns
    assert any({"difference"} <= each for each in columns), columns


def test_a_load_test_that_cannot_be_meant_is_one_sentence(page: Pages, seeded_url):
    test = page.run("load_tests", seeded_url)
    next(field for field in test.text_input if field.label == "Rate").set_value("-3")
    next(button for button in test.button if button.label == "Start").click()
    test.run()
    assert not test.exception
    assert len(test.error) == 1
    assert "more than 0" in test.error[0].value


def test_the_load_runner_refuses_what_cannot_be_meant(tmp_path):
    runner = LoadRunner(Settings(orders_home=tmp_path, port_base=None))
    with pytest.raises(UsageError, match="Unknown scenario"):
        runner.start({"scenario": "nonsense"})
    assert runner.running() == []
    assert runner.reports("nobody") == []
    written = ("locust_exceptions.csv", "locust_failures.csv", "verdict.json")
    directory = tmp_path / "reports" / "judged"
    directory.mkdir(parents=True)
    for name in written:
        (directory / name).touch()
    assert sorted(file.name for file in runner.reports("judged")) == sorted(written)
    assert runner.last_words("nobody") == ""
