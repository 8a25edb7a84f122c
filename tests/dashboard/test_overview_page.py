"""The page Overview: banner, metrics, pipeline, orders in flight, components and faults."""

from datetime import timedelta
from urllib.parse import parse_qs

import psycopg
import pytest
from streamlit.testing.v1 import AppTest

from dashboard import page_elements, plotly_figure
from dashboard.data import clients, local_stack
from dashboard.sections.overview import status
from dashboard.view_models.component_health import LocalProcess
from db.domain import State
from db.read_models import live_orders, step_times
from db.read_models.live_orders import OutcomeSlice, RecentOutcomes
from loadtest.bench.seed import seed, seed_recent
from tests.dashboard.conftest import NO_API, Pages, metrics_of, reader_of, texts
from tests.orders import OrderDriver


def links(test: AppTest) -> dict[str, dict[str, list[str]]]:
    """The query of each link to another page, by its label."""
    return {each.proto.label: parse_qs(each.proto.query_string) for each in test.get("page_link")}


@pytest.mark.parametrize(("late", "color"), [(0, "green"), (1, "green"), (9, "gray"), (11, "red")])
def test_the_banner_is_red_only_when_the_target_is_breached(page, seeded_url, monkeypatch, late, color):
    recent = RecentOutcomes(1_000, late, {State.COMPLETED: 1_000}, 1, 2, 3, 4)
    monkeypatch.setattr(live_orders, "recent_outcomes", lambda _reader, _seconds: recent)
    test = page.run("overview", seeded_url)
    (banner,) = [each.value for each in test.markdown if "SLO" in each.value]
    word = {"green": "met", "gray": "not proven", "red": "breached"}[color]
    assert banner.startswith(f":{color}[")
    assert f"**SLO {word}: {1_000 - late:,} of 1,000 orders" in banner
    assert f"Error budget: 10.0 late orders, {10 * late} % used." in texts(test)


def test_the_banner_is_gray_without_orders(page: Pages, order_database_url):
    test = page.run("overview", order_database_url)
    assert ":gray[:material/hourglass_empty:] **No order finished in this time window.**" in texts(test)


def test_the_metrics_equal_sql(page: Pages, postgres):
    with postgres.fresh_database() as url:
        seed(url, 200, days=1, progress=lambda _: None)
        seed_recent(url, finished=150, running=7)
        test = page.run("overview", url, window="1 h")
        with psycopg.connect(url) as connection:
            truth = connection.execute(
                "select count(*) filter (where finished_at is null),"
                " count(*) filter (where state = 'completed' and is_recent),"
                " count(*) filter (where not within_limit and is_recent),"
                " percentile_disc(0.99) within group (order by completion_ms) filter (where is_recent),"
                " max(completion_ms) filter (where is_recent)"
                " from (select *, finished_at >= now() - interval '1 hour' as is_recent from orders) o"
            ).fetchone()
        page.reset()
    shown = metrics_of(test)
    in_flight, completed, late, p99_ms, longest_ms = truth
    assert (in_flight, completed > 100) == (7, True)
    assert shown["In flight"] == f"{in_flight:,}"
    assert shown["Late"] == f"{late:,}"
    assert (shown["p99"], shown["Longest"]) == (f"{p99_ms / 1000:,.3f} s", f"{longest_ms / 1000:,.3f} s")
    assert f"**{completed:,}**" in texts(test)


@pytest.mark.parametrize(("rejected", "below"), [(0, "3.0 / s started"), (2, "2.0 / s rejected")])
def test_the_throughput_names_rejected_starts(page: Pages, seeded_url, monkeypatch, rejected, below):
    at = clients.now()
    rows = [
        {"at": at + timedelta(seconds=n), "started": 3, "finished": 1, "rejected": rejected}
        for n in range(120)
    ]
    monkeypatch.setattr(status, "throughput", lambda _seconds: rows)
    test = page.run("overview", seeded_url)
    assert {metric.label: metric.delta for metric in test.metric}["Throughput"] == below


def test_a_percentile_of_few_orders_is_not_shown(page: Pages, seeded_url, monkeypatch):
    recent = RecentOutcomes(99, 0, {State.COMPLETED: 99}, 1_000, 2_000, 3_000, 4_000)
    monkeypatch.setattr(live_orders, "recent_outcomes", lambda _reader, _seconds: recent)
    test = page.run("overview", seeded_url)
    shown = {metric.label: (metric.value, metric.delta) for metric in test.metric}
    assert shown["p99"] == ("–", "needs 100 orders")
    assert shown["p50"][0] == "1.000 s"


def test_a_sparkline_has_only_slices_with_enough_orders():
    slices = [
        OutcomeSlice(100, 0, 2_000, 9_000),
        OutcomeSlice(99, 0, 2_100, 9_100),
        OutcomeSlice(200, 0, 2_200, 9_200),
    ]
    tile = status._percentile("p99", 0.99, 399, 9_200, slices, lambda each: each.p99_ms)
    assert tile.course == [9.0, 9.2]
    assert status._percentile("p99", 0.99, 199, 9_100, slices[:2], lambda each: each.p99_ms).course == []


def test_each_state_links_to_its_orders(page: Pages, seeded_url):
    found = links(page.run("overview", seeded_url))
    assert found.pop("Show on a stage") == {}
    assert found == {
        state.value.replace("_", " ").capitalize(): {"state": [state.value]}
        for state in State
        if state is not State.VALIDATED
    }


async def test_the_pipeline_shows_each_step(page: Pages, order_database_url, driver: OrderDriver):
    await driver.carry_to(State.COMPLETED)
    text = texts(page.run("overview", order_database_url))
    reader = reader_of(order_database_url)
    (row,) = step_times.newest(reader)
    reader.close()
    assert f"charge {row['charge_end_ms'] - row['review_end_ms']:,} ms" in text


def test_a_click_on_a_bar_opens_the_order(page: Pages, postgres, monkeypatch):
    opened = []
    monkeypatch.setattr(
        "streamlit.switch_page", lambda page, query_params: opened.append((page.url_path, query_params))
    )
    with postgres.fresh_database() as url:
        seed_recent(url, finished=0, running=3)
        test = page.run("overview", url)
        assert opened == []
        clicks = {"in-flight": "seed-running-2"}
        monkeypatch.setattr(plotly_figure, "FIGURE", lambda key, **_: {"clicked": clicks.get(key)})
        test.run()
        page.reset()
    assert opened == [("orders", {"order": "seed-running-2"})]


def test_local_processes_are_shown_with_age_and_restarts(page: Pages, seeded_url, monkeypatch):
    started_at = clients.now() - timedelta(minutes=3)
    processes = [LocalProcess("order-worker-1", "running", started_at, 2)]
    monkeypatch.setattr(local_stack, "processes", lambda: processes)
    text = texts(page.run("overview", seeded_url))
    assert "| :green[:material/check_circle:] order-worker-1 | Up | 3\u00a0min | 2 |" in text
    assert (
        "| :gray[:material/hourglass_empty:] Temporal | Unknown: the API is not responding | – | – |" in text
    )


def test_no_local_stack_is_no_error(page: Pages, seeded_url):
    test = page.run("overview", seeded_url)
    assert not test.error
    assert local_stack.processes() == []


def test_components_are_unknown_without_an_api(page: Pages, seeded_url):
    test = page.run("overview", seeded_url)
    text = texts(test)
    assert "Not responding" in text
    assert "Unknown: the API is not responding" in text


def test_applying_a_fault_profile_without_an_api_shows_an_error(page: Pages, seeded_url):
    test = page.run("overview", seeded_url)
    test.selectbox(key="fault-profile").set_value("outage")
    for label in ("Apply fault profile", "Apply"):
        next(button for button in test.button if button.label == label).click()
        test.run()
    assert not test.exception
    assert [error.value for error in test.error] == [NO_API]


def test_an_action_result_survives_reruns_until_it_expires(page: Pages, order_database_url, monkeypatch):
    test = page.run("overview", order_database_url)
    for label in ("Apply fault profile", "Apply"):
        next(button for button in test.button if button.label == label).click()
        test.run()
    for _ in range(2):
        assert [error.value for error in test.error] == [NO_API]
        test.run()
    later = clients.now() + page_elements.RESULT_VISIBLE
    monkeypatch.setattr(clients, "now", lambda: later)
    test.run()
    assert not test.error
