"""The page Stage: its counters, its live data, and the page around them."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from unittest.mock import patch

import httpx
import psycopg
import pytest
from starlette.applications import Starlette
from starlette.routing import Route

from dashboard.data import clients
from dashboard.stage.document import stage_document
from dashboard.stage.live_data import PATH, live_data
from db import runs
from db.domain import State
from db.read_models import stage
from db.read_models.stage import StageCounters
from tests.dashboard.conftest import NO_API, Pages, plain, reader_of
from tests.orders import OrderDriver
from tests.servers import PostgresServer

LIMIT_SECONDS = 15.0


@pytest.fixture
def order_database_url(postgres: PostgresServer, page: Pages) -> Iterator[str]:
    """An empty database for one test."""
    with postgres.fresh_database() as url:
        yield url
        page.reset()


def execute(url: str, statement: str, *parameters: object) -> None:
    with psycopg.connect(url) as connection:
        connection.execute(statement, parameters)


def age(url: str, order_id: str, seconds: float) -> None:
    """Move the acceptance and the limit of an order into the past."""
    execute(
        url,
        "update orders set accepted_at = now() - make_interval(secs => %s), limit_at = now() +"
        " make_interval(secs => %s) where order_id = %s",
        seconds,
        LIMIT_SECONDS - seconds,
        order_id,
    )


def counted(url: str, since: datetime) -> StageCounters:
    reader = reader_of(url)
    try:
        return stage.counters(reader, since)
    finally:
        reader.close()


async def test_the_counters_count_late_and_lost_orders_and_double_charges(
    driver: OrderDriver, order_database_url
):
    since = datetime.now(UTC) - timedelta(minutes=5)
    await driver.carry_to(State.COMPLETED)
    await driver.carry_to(State.CANCELLED)
    await driver.carry_to(State.CHARGED)
    overdue, lost, old = [await driver.carry_to(State.CHARGED) for _ in range(3)]
    age(order_database_url, overdue, 20)
    age(order_database_url, lost, 60)
    age(order_database_url, old, 3_600)
    assert counted(order_database_url, since) == StageCounters(5, 4, 2, 1, 0)
    for payment in ("first", "second"):
        assert counted(order_database_url, since).charged_twice == 0
        execute(
            order_database_url,
            "insert into provider.ledger (payment_id, order_id, kind, amount_cents)"
            " values (%s, %s, 'charge', 1)",
            payment,
            overdue,
        )
    assert counted(order_database_url, since).charged_twice == 1
    assert counted(order_database_url, datetime.now(UTC) + timedelta(minutes=1)) == StageCounters(
        0, 0, 0, 0, 0
    )


async def test_the_picture_has_orders_in_flight_and_recently_finished_ones(
    driver: OrderDriver, order_database_url
):
    done = await driver.carry_to(State.COMPLETED)
    old = await driver.carry_to(State.COMPLETED)
    charged = await driver.carry_to(State.CHARGED)
    execute(order_database_url, "alter table orders disable trigger orders_reject_illegal_transition")
    execute(
        order_database_url, "update orders set finished_at = now() - interval '70 s' where order_id = %s", old
    )
    reader = reader_of(order_database_url)
    recent = stage.recent_orders(reader, seconds=60)
    newest = stage.recent_orders(reader, seconds=60, max_orders=1)
    reader.close()
    orders = {order.order_id: order for order in recent.orders}
    assert list(orders) == [done, charged]
    assert (orders[done].outcome, orders[done].is_late) == (State.COMPLETED, False)
    assert [phase for phase, _ in orders[charged].phases][-1] == "prepare"
    assert orders[charged].end_ms is None
    assert 0 <= recent.now_ms - orders[charged].accepted_ms < 60_000
    assert {order.order_id for order in newest.orders} == {done, charged}, "one of each"


async def get(url: str, **query: str) -> httpx.Response:
    database = reader_of(url)
    transport = httpx.ASGITransport(Starlette(routes=[Route(PATH, live_data)]))
    with patch.object(clients, "database", lambda: database):
        async with httpx.AsyncClient(transport=transport, base_url="http://dashboard") as client:
            response = await client.get(PATH, params=query)
    database.close()
    return response


async def test_the_live_data_has_counters_orders_and_disturbances(
    page: Pages, driver: OrderDriver, order_database_url
):
    order_id = await driver.carry_to(State.CHARGED)
    runs.record_disturbance(
        order_database_url, at=datetime.now(UTC), action="kill", component="api", time_budget_seconds=0
    )
    response = await get(order_database_url)
    assert response.status_code == 200
    assert response.headers["cache-control"] == "no-store"
    data = response.json()
    assert data["counters"] == {"orders": 1, "late": 0, "lost": 0, "charged_twice": 0}
    assert data["is_breached"] is False
    assert data["ids"] == [order_id]
    assert [each["name"] for each in data["disturbances"]] == ["kill api (+15 s)"]
    page.reset()
    later = await get(order_database_url, since=(datetime.now(UTC) + timedelta(minutes=1)).isoformat())
    assert later.json()["counters"]["orders"] == 0


async def test_late_orders_are_marked_only_when_the_target_is_breached(
    page: Pages, driver: OrderDriver, order_database_url
):
    for order_id in [await driver.carry_to(State.CHARGED) for _ in range(4)]:
        age(order_database_url, order_id, 20)
    data = (await get(order_database_url)).json()
    assert (data["counters"]["late"], data["is_breached"]) == (4, True)


async def test_the_live_data_reports_a_wrong_time_and_an_unavailable_database(
    page: Pages, order_database_url
):
    wrong = await get(order_database_url, since="yesterday")
    assert wrong.status_code == 422
    assert "yesterday" in wrong.text
    page.reset()
    unavailable = await get("postgresql://orders_reader@/orders?host=/nowhere&sslmode=disable")
    assert unavailable.status_code == 503
    assert unavailable.text == "The database is not responding. Try again shortly."


def test_the_page_has_the_picture_and_the_buttons(page: Pages, seeded_url):
    test = page.run("stage", seeded_url)
    assert not test.exception
    (picture,) = test.get("iframe")
    assert f"{PATH}?since=" in picture.proto.srcdoc
    labels = {button.label for button in test.button}
    assert {"Faults: none", "Faults: assignment", "Faults: outage", "Apply fault profile"} <= labels
    next(button for button in test.button if button.label == "Faults: outage").click()
    test.run()
    next(button for button in test.button if button.label == "Apply").click()
    test.run()
    assert not test.exception
    assert [plain(error.value) for error in test.error] == [plain(NO_API)]


def test_the_document_has_the_theme_and_allows_its_live_data_only():
    text = stage_document("/dash/stage/live.json?since=2026-01-31T12%3A00%3A00%2B00%3A00", 15.0, "dark")
    assert 'data-theme="dark"' in text
    assert "connect-src &#x27;self&#x27;" in text
    assert "/dash/stage/live.json?since=2026-01-31T12%3A00%3A00%2B00%3A00" in text
    assert "limit of 15 s" in text
