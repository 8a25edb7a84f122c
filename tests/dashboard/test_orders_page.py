"""The orders page: the start form, the table, and one order."""

import itertools
import json
from collections import Counter
from collections.abc import Iterator

import psycopg
import pytest
from streamlit.testing.v1 import AppTest

from dashboard.data import order_batches
from dashboard.data.order_api import OrderApi
from dashboard.sections import order_view, orders_table
from dashboard.view_models import order_tables
from db.read_models import latency, order_search
from db.read_models.latency import Selection
from db.read_models.order_search import Search
from db.read_only_database import ReadOnlyDatabase
from loadtest.bench.seed import random_order_ids, seed, seed_recent
from orchestrator.errors import Overloaded, RequestMalformed, ServiceUnavailable
from tests.dashboard.conftest import NO_API, Pages, figures_of, metrics_of, plain, texts


def field(fields, label: str):
    return next(each for each in fields if each.label == label)


def click(test: AppTest, label: str) -> None:
    field(test.button, label).click()
    test.run()


def start(test: AppTest) -> None:
    click(test, "Start")


def finish_batch(test: AppTest) -> None:
    """Wait for the end of the batch, and show its result."""
    batch = test.session_state["order-batch"]
    batch.join(10)
    assert not batch.is_running
    test.run()


def table_of(test: AppTest):
    (table,) = (each for each in test.dataframe if each.key and each.key.startswith("orders-table-"))
    return table


def select(test: AppTest, selection: dict) -> None:
    """Select rows or a cell of the table of orders, which AppTest cannot do."""
    states = test._tree.get_widget_states()
    widget = states.widgets.add()
    widget.id, widget.string_value = table_of(test).proto.id, json.dumps({"selection": selection})
    test._run(states)


def elements_of(block) -> Iterator:
    """Yield the elements of a block and of the blocks in it, in the order of the page."""
    for child in block.children.values():
        if hasattr(child, "children"):
            yield from elements_of(child)
        else:
            yield child


def test_starting_an_order_without_an_api_shows_an_error(page: Pages, seeded_url):
    test = page.run("orders", seeded_url)
    next(button for button in test.button if button.label == "Start").click()
    test.run()
    assert not test.exception
    assert [error.value for error in test.error if error.value == NO_API]


def test_the_start_form_shows_each_error_below_its_field(page: Pages, seeded_url, monkeypatch):
    def reject(_api, _order_id, body):
        assert body["initial_address"]["street"] == ""
        fields = {
            "body.initial_address.street": "street is empty",
            "body.items.0.sku": "sku is empty",
            "body.payment_id": "payment_id is empty",
        }
        raise RequestMalformed("; ".join(fields.values()), fields)

    monkeypatch.setattr(OrderApi, "start", reject)
    test = page.run("orders", seeded_url)
    field(test.text_input, "Street").set_value("")
    start(test)
    assert [plain(error.value) for error in test.error] == ["Payment_id is empty."]
    elements = list(elements_of(test.main))
    street = next(n for n, each in enumerate(elements) if getattr(each, "label", "") == "Street")
    assert plain(elements[street + 1].value) == ":red[:material/error: Street is empty.]"
    assert ":red[:material/error: Line 1: sku is empty.]" in plain(texts(test))
    monkeypatch.setattr(OrderApi, "start", lambda *_: None)
    start(test)
    assert not test.error
    assert ":red[" not in texts(test)


def test_a_repeated_click_on_start_starts_the_same_order(page: Pages, seeded_url, monkeypatch):
    started = []

    def start(_api, order_id, _body):
        started.append(order_id)
        if len(started) == 1:
            raise ServiceUnavailable("no response; the order may have been accepted")

    monkeypatch.setattr(OrderApi, "start", start)
    test = page.run("orders", seeded_url)
    for _ in range(2):
        next(button for button in test.button if button.label == "Start").click()
        test.run()
    assert started[0] == started[1]
    assert test.query_params["order"] == started[0]


def test_a_batch_is_started_with_progress_and_another_id_follows(page: Pages, seeded_url, monkeypatch):
    started = []
    monkeypatch.setattr(OrderApi, "start", lambda _api, order_id, _body: started.append(order_id))
    test = page.run("orders", seeded_url)
    for number in (1, 2):
        field(test.number_input, "Number of orders").set_value(3)
        start(test)
        finish_batch(test)
        assert len(set(started)) == 3 * number
        assert [message.value for message in test.success] == ["Started 3 of 3 orders."]


def test_an_order_id_that_is_too_long_with_its_number_starts_no_order(page: Pages, seeded_url, monkeypatch):
    monkeypatch.setattr(OrderApi, "start", lambda *_: pytest.fail("started"))
    test = page.run("orders", seeded_url)
    field(test.text_input, "Order id").set_value("x" * 62)
    field(test.number_input, "Number of orders").set_value(10)
    start(test)
    assert "An order id has 1 to 64 letters, digits, '-' or '_', with its number, such as '-10'." in plain(
        texts(test)
    )


@pytest.mark.parametrize("execution", [None, "fast", "visible"])
def test_the_chosen_execution_is_sent(page: Pages, seeded_url, monkeypatch, execution):
    sent = []
    monkeypatch.setattr(OrderApi, "start", lambda _api, _order_id, body: sent.append(body))
    test = page.run("orders", seeded_url)
    field(test.button_group, "Execution").set_value(execution)
    start(test)
    assert [body.get("execution") for body in sent] == [execution]


def test_a_batch_survives_an_overloaded_api(page: Pages, seeded_url, monkeypatch):
    monkeypatch.setattr(order_batches, "MAX_PAUSE_SECONDS", 0.01)
    requests = Counter()

    def shed_the_first(_api, order_id, _body):
        requests[order_id] += 1
        if requests[order_id] == 1:
            raise Overloaded(retry_after_seconds=60)

    monkeypatch.setattr(OrderApi, "start", shed_the_first)
    test = page.run("orders", seeded_url)
    field(test.number_input, "Number of orders").set_value(5)
    start(test)
    finish_batch(test)
    assert [message.value for message in test.success] == ["Started 5 of 5 orders."]
    assert set(requests.values()) == {2}


def test_selected_orders_are_cancelled_after_a_preview(page: Pages, postgres, monkeypatch):
    cancelled = []
    monkeypatch.setattr(OrderApi, "cancel", lambda _api, order_id, **_: cancelled.append(order_id))
    with postgres.fresh_database() as url:
        seed(url, 3, days=1, progress=lambda _: None)
        seed_recent(url, finished=0, running=2)
        with psycopg.connect(url) as connection:
            connection.execute("update orders set abort_reason = null where state < 'completed'")
        test = page.run("orders", url)
        orders = table_of(test).value
        open_ids = [order_id for order_id in orders["order"] if order_id.startswith("seed-running")]
        assert len(open_ids) == 2
        select(test, {"rows": [0, 1, 2], "cells": []})
        click(test, "Cancel 3 selected orders")
        assert "**2 of 3** can be cancelled now." in texts(test)
        preview = test.dataframe[-1].value if test.dataframe[-1].key is None else test.dataframe[0].value
        assert sorted(preview["cancellation"])[1:] == ["possible", "possible"]
        assert sorted(preview["cancellation"])[0].startswith("already ")
        field(test.text_input, "Reason").set_value(" ")
        click(test, "Cancel 2 orders")
        assert "order-batch" not in test.session_state
        # AppTest runs the whole page again, which closes the dialog.
        click(test, "Cancel 3 selected orders")
        field(test.text_input, "Reason").set_value("sold out")
        click(test, "Cancel 2 orders")
        finish_batch(test)
        page.reset()
    assert set(cancelled) == set(open_ids)
    assert not [each for each in test.button if each.label.startswith("Cancel")]
    assert [message.value for message in test.success] == ["Cancelled 2 of 2 orders."]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-0.3, "0 s ago"),
        (3.2, "3 s ago"),
        (119, "119 s ago"),
        (120, "2 min ago"),
        (7_200, "2 h ago"),
        (900_000, "10 d ago"),
    ],
)
def test_the_age_of_an_order_is_in_its_largest_unit(seconds, text):
    assert order_tables.age(seconds) == text


def test_selected_orders_stay_selected_when_new_orders_arrive(page: Pages, postgres):
    with postgres.fresh_database() as url:
        seed(url, 20, days=1, progress=lambda _: None)
        test = page.run("orders", url)
        before = list(table_of(test).value["order"])
        select(test, {"rows": [1], "cells": []})
        seed_recent(url, finished=1, running=3)
        test.run()
        assert list(table_of(test).value["order"]) == before
        click(test, "Refresh")
        after = list(table_of(test).value["order"])
        page.reset()
    assert after != before
    assert not [each for each in test.button if each.label == "Cancel the selected order"]


def test_the_address_form_shows_a_change_from_elsewhere_and_sends_its_version(
    page: Pages, postgres, monkeypatch
):
    sent = []
    monkeypatch.setattr(OrderApi, "change_address", lambda _api, *request: sent.append(request))
    monkeypatch.setattr(order_view, "user_may", lambda _role: True)
    with postgres.fresh_database() as url:
        seed_recent(url, finished=1, running=3)
        test = page.run("orders", url, order="seed-running-3")
        with psycopg.connect(url) as connection:
            connection.execute(
                """update orders set address = address || '{"street": "9 Other Road"}', address_version = 2
                where order_id = 'seed-running-3'"""
            )
        test.run()
        fields = {field.label: field for field in test.text_input}
        assert fields["Street"].value == "9 Other Road"
        fields["Zip"].set_value("10001")
        next(button for button in test.button if button.label == "Save address").click()
        test.run()
        page.reset()
    (order_id, address, _user, version) = sent[0]
    assert (order_id, version) == ("seed-running-3", 2)
    assert (address["street"], address["zip"]) == ("9 Other Road", "10001")
    assert (address["street2"], address["country"]) == ("", "US")


def test_the_form_of_an_order_never_shows_the_address_of_another(page: Pages, postgres, monkeypatch):
    monkeypatch.setattr(order_view, "user_may", lambda _role: True)
    with postgres.fresh_database() as url:
        seed_recent(url, finished=1, running=6)
        with psycopg.connect(url) as connection:
            connection.execute(
                """update orders set address = address || '{"street": "9 Other Road"}'
                where order_id = 'seed-running-6'"""
            )
        test = page.run("orders", url, order="seed-running-3")
        assert field(test.text_input, "Street").value == "1 Main Street"
        test.query_params["order"] = "seed-running-6"
        test.run()
        assert field(test.text_input, "Street").value == "9 Other Road"
        page.reset()


def test_the_start_form_rejects_an_order_id_that_no_path_can_hold(page: Pages, seeded_url):
    test = page.run("orders", seeded_url)
    next(field for field in test.text_input if field.label == "Order id").set_value("../faults")
    next(button for button in test.button if button.label == "Start").click()
    test.run()
    assert ":red[:material/error: An order id has 1 to 64 letters" in plain(texts(test))


def test_an_unknown_order_is_not_an_error(page: Pages, seeded_url):
    test = page.run("orders", seeded_url, order="no<b>body</b>")
    assert not test.exception
    assert "Order not found." in texts(test)
    assert "no\\<b\\>body\\<\\/b\\>" in texts(test)


def test_a_new_order_appears_when_the_database_has_it(page: Pages, seeded_url, monkeypatch):
    (order_id,) = random_order_ids(seeded_url, 1)
    real, calls = order_search.order_details, itertools.count()
    monkeypatch.setattr(order_search, "order_details", lambda *given: real(*given) if next(calls) else None)
    test = page.run("orders", seeded_url, order=order_id)
    assert not test.exception
    assert "Order not found." not in texts(test)
    assert any(metric.label == "State" for metric in test.metric)


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


def test_a_click_opens_the_clicked_order_when_new_orders_have_arrived(page: Pages, postgres):
    with postgres.fresh_database() as url:
        seed(url, 20, days=1, progress=lambda _: None)
        test = page.run("orders", url)
        clicked = table_of(test).value["order"].iloc[1]
        # The Tab key selects a cell of the first column.
        select(test, {"rows": [], "cells": [[1, orders_table.FIRST_COLUMN]]})
        assert "order" not in test.query_params
        seed_recent(url, finished=1, running=3)
        select(test, {"rows": [], "cells": [[1, "reason"]]})
        page.reset()
    assert test.query_params["order"] == clicked
    assert clicked in plain(test.title[0].value)


def test_the_order_page_shows_the_stored_values(page: Pages, seeded_url, seeded: ReadOnlyDatabase):
    plan = latency.plan(seeded, Selection())
    row = latency.slowest(seeded, plan, latency.buckets(seeded, plan), 1)[0]
    test = page.run("orders", seeded_url, order=row["order_id"])
    figures = {metric.label: metric.value for metric in test.metric}
    assert figures["State"] == row["outcome"]
    assert figures["Time"] == f"{row['completion_ms'] / 1000:,.3f} s"
    assert not [button for button in test.button if button.label in ("Approve", "Reject")]
    assert list(figures_of(test)) == ["timeline"]


def test_an_order_without_events_shows_its_records(page: Pages, postgres):
    with postgres.fresh_database() as url:
        seed(url, 20, days=1, progress=lambda _: None)
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("delete from events")
            order_id, state = connection.execute("select order_id, state from orders limit 1").fetchone()
        test = page.run("orders", url, order=order_id)
        page.reset()
    assert not test.exception
    assert not test.error
    assert "have been deleted" in " ".join(info.value for info in test.info)
    assert metrics_of(test)["State"] == state
    assert any("charged" in table.value.to_string() for table in test.dataframe)
    assert not figures_of(test)
