"""Starts that would not keep their limit are turned away: an API of its own beside that of the stack."""

from collections.abc import AsyncIterator

import httpx
import pytest
import pytest_asyncio

from orchestrator.api import models
from orchestrator.api.app import create_app
from orchestrator.embedded import Stack
from tests.live import LiveApi, body, eventually, new_id

pytestmark = pytest.mark.stack


@pytest_asyncio.fixture
async def narrow(live: LiveApi, live_stack: Stack) -> AsyncIterator[httpx.AsyncClient]:
    """An API that lets one order in at a time."""
    # Those of the tests before that still run would be in the way; who waits for a person is not.
    eventually(lambda: _in_flight(live) == 0, seconds=30)
    app = create_app(live_stack.settings.model_copy(update={"max_in_flight": 1}))
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as client,
    ):
        yield client


def _in_flight(live: LiveApi) -> int:
    orders = live.http.get("/orders", params={"limit": 500}).json()["orders"]
    return sum(order["status"] == "running" and order["state"] != "in_review" for order in orders)


async def test_one_too_many_is_told_when_to_come_again_and_stored_nowhere(
    narrow: httpx.AsyncClient, live: LiveApi
) -> None:
    first, second = new_id(), new_id()
    assert (await narrow.post(f"/orders/{first}/start", json=body())).status_code == 200
    shed = await narrow.post(f"/orders/{second}/start", json=body())
    assert shed.status_code == 429
    assert shed.headers["content-type"] == "application/problem+json"
    assert int(shed.headers["retry-after"]) >= 1
    assert (
        models.Problem.model_validate(shed.json()).detail
        == "too many orders are under way; try again shortly"
    )
    assert live.http.get(f"/orders/{second}/status").status_code == 404
    figures = (await narrow.get("/metrics")).text
    assert "orders_admissible 1.0" in figures
    assert "order_starts_shed_total 1.0" in figures


async def test_a_repeat_of_an_accepted_order_is_never_shed(narrow: httpx.AsyncClient, live: LiveApi) -> None:
    order_id = new_id()
    assert (await narrow.post(f"/orders/{order_id}/start", json=body())).json()["status"] == "started"
    while True:
        again = await narrow.post(f"/orders/{order_id}/start", json=body())
        assert (again.status_code, again.json()["status"]) == (200, "already_started")
        other = await narrow.post(f"/orders/{order_id}/start", json=body(payment_id="other"))
        assert other.status_code == 409
        if live.status(order_id)["status"] != "running":
            break


async def test_room_comes_back_with_the_outcome(narrow: httpx.AsyncClient, live: LiveApi) -> None:
    order_id = new_id()
    assert (await narrow.post(f"/orders/{order_id}/start", json=body())).status_code == 200
    live.finished(order_id)
    next_one = new_id()
    answer = await narrow.post(f"/orders/{next_one}/start", json=body())
    while answer.status_code == 429:
        answer = await narrow.post(f"/orders/{next_one}/start", json=body())
    assert answer.status_code == 200
    live.finished(next_one)
