"""Admission control of a second API on the same stack, which admits one order at a time."""

import asyncio
from collections.abc import AsyncIterator

import httpx
import psycopg
import pytest
import pytest_asyncio

from orchestrator.api.app import create_app
from orchestrator.api.schemas.responses import Problem
from orchestrator.embedded import Stack
from tests.live import LiveApi, body, eventually, new_id
from tests.stacks import frozen

pytestmark = pytest.mark.stack


@pytest_asyncio.fixture
async def limited_api(live: LiveApi, live_stack: Stack) -> AsyncIterator[httpx.AsyncClient]:
    # Orders of earlier tests would count. Orders in review do not.
    eventually(lambda: _in_flight(live) == 0, seconds=30)
    app = create_app(live_stack.settings.model_copy(update={"max_in_flight": 1}))
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as client,
    ):
        yield client


def _stored_rejections(stack: Stack) -> int:
    with psycopg.connect(stack.settings.order_database_url) as connection:
        (number,) = connection.execute("select coalesce(sum(starts), 0) from rejected_starts").fetchone() or (
            0,
        )
        return int(number)


def _in_flight(live: LiveApi) -> int:
    orders = live.http.get("/orders", params={"limit": 500}).json()["orders"]
    return sum(order["status"] == "running" and order["state"] != "in_review" for order in orders)


async def test_a_rejected_start_has_retry_after_and_only_its_number_is_stored(
    limited_api: httpx.AsyncClient, live: LiveApi, live_stack: Stack
) -> None:
    first, second, stored = new_id(), new_id(), _stored_rejections(live_stack)
    # The first order is in flight as long as no worker processes it.
    with frozen(live_stack, "order-worker-1"):
        assert (await limited_api.post(f"/orders/{first}/start", json=body())).status_code == 200
        rejected = await limited_api.post(f"/orders/{second}/start", json=body())
    assert rejected.status_code == 429
    assert rejected.headers["content-type"] == "application/problem+json"
    assert int(rejected.headers["retry-after"]) >= 1
    detail = Problem.model_validate(rejected.json()).detail
    assert detail == "too many orders are in flight; try again shortly"
    assert live.http.get(f"/orders/{second}/status").status_code == 404
    metrics = (await limited_api.get("/metrics")).text
    assert "orders_admissible 1.0" in metrics
    assert "orders_rejected_total 1.0" in metrics
    # In a thread, so that the API, which is in this process, can store it.
    await asyncio.to_thread(eventually, lambda: _stored_rejections(live_stack) == stored + 1)


async def test_a_repeat_of_an_accepted_start_is_never_rejected(
    limited_api: httpx.AsyncClient, live: LiveApi
) -> None:
    order_id = new_id()
    assert (await limited_api.post(f"/orders/{order_id}/start", json=body())).json()["status"] == "started"
    while True:
        again = await limited_api.post(f"/orders/{order_id}/start", json=body())
        assert (again.status_code, again.json()["status"]) == (200, "already_started")
        other = await limited_api.post(f"/orders/{order_id}/start", json=body(payment_id="other"))
        assert other.status_code == 409
        if live.status(order_id)["status"] != "running":
            break


async def test_an_outcome_makes_room_for_the_next_order(
    limited_api: httpx.AsyncClient, live: LiveApi
) -> None:
    order_id = new_id()
    assert (await limited_api.post(f"/orders/{order_id}/start", json=body())).status_code == 200
    live.finished(order_id)
    next_id = new_id()
    response = await limited_api.post(f"/orders/{next_id}/start", json=body())
    while response.status_code == 429:
        response = await limited_api.post(f"/orders/{next_id}/start", json=body())
    assert response.status_code == 200
    live.finished(next_id)
