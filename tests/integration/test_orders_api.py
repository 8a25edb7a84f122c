"""REST API: start, status, history and list of orders."""

import asyncio
import itertools
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from orchestrator.api.schemas import responses
from orchestrator.embedded import Stack
from orchestrator.temporal.client import connect
from tests.integration.problems import is_problem
from tests.live import LiveApi, body, eventually, new_id
from tests.orders import OTHER_ADDRESS

pytestmark = pytest.mark.stack

STATUS_FIELDS = {
    "workflow_id", "order_id", "status", "state", "current_step", "completed_steps", "retries",
    "recent_errors", "result", "error", "reason", "created_at", "updated_at", "deadline_at", "completion_ms",
    "within_limit",
}  # fmt: skip


def test_start_is_accepted_and_the_order_completes(live: LiveApi) -> None:
    order_id = new_id()
    items = [{"sku": "CUP-1", "quantity": 3, "unit_price_cents": 250}]
    response = live.http.post(f"/orders/{order_id}/start", json=body(items=items)).json()
    assert response["workflow_id"] == f"order-{order_id}"
    assert response["order_id"] == order_id
    assert response["status"] == "started"
    assert response["message"]

    status = live.finished(order_id)
    assert status.keys() >= STATUS_FIELDS
    assert responses.OrderStatusResponse.model_validate(status)
    assert status["status"] == status["state"] == "completed"
    assert status["current_step"] is None
    assert status["completed_steps"] == [
        "receive", "validate", "review", "charge", "prepare", "dispatch", "finish",
    ]  # fmt: skip
    assert status["result"]["amount_cents"] == 750
    assert status["result"]["completion_ms"] == status["completion_ms"]
    assert status["result"]["tracking"]
    assert status["within_limit"] is True
    assert status["error"] is None
    assert status["reason"] is None
    created, deadline = (datetime.fromisoformat(status[name]) for name in ("created_at", "deadline_at"))
    assert deadline - created == timedelta(seconds=15)


async def test_temporal_lists_the_orders_of_a_run(live: LiveApi, live_stack: Stack) -> None:
    order_id, run_id = new_id(), new_id()
    live.http.post(f"/orders/{order_id}/start", json=body(run_id=run_id))
    client = await connect(live_stack.settings)
    description = await client.get_workflow_handle(f"order-{order_id}").describe()
    assert await description.static_summary() == f"order {order_id}, 42.00 USD, run {run_id}"
    async with asyncio.timeout(60):
        while [each.id async for each in client.list_workflows(f"OrderRunId = '{run_id}'")] != [  # noqa: ASYNC110
            f"order-{order_id}"
        ]:
            await asyncio.sleep(0.1)


def test_a_repeated_start_changes_nothing(live: LiveApi) -> None:
    order_id = live.start()
    for content in (body(), body(requested_at="2026-01-01T00:00:00Z"), body(run_id="other-run")):
        again = live.http.post(f"/orders/{order_id}/start", json=content)
        assert (again.status_code, again.json()["status"]) == (200, "already_started")
    live.finished(order_id)
    assert live.http.post(f"/orders/{order_id}/start", json=body()).json()["status"] == "already_started"
    assert [event["kind"] for event in live.history(order_id)].count("accepted") == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"initial_address": asdict(OTHER_ADDRESS)},
        {"items": [{"sku": "X", "quantity": 1, "unit_price_cents": 1}]},
        {"payment_id": "another"},
        {"review": "manual"},
        {"execution": "visible"},
    ],
)
def test_the_same_id_with_other_content_is_a_conflict(live: LiveApi, changes: dict[str, object]) -> None:
    order_id = live.start()
    assert is_problem(live.http.post(f"/orders/{order_id}/start", json=body(**changes)), 409)
    eventually(lambda: live.history(order_id))
    assert is_problem(live.http.post(f"/orders/{order_id}/start", json=body(**changes)), 409)


def test_concurrent_equal_starts_start_one_order(live: LiveApi) -> None:
    order_id = new_id()
    with ThreadPoolExecutor(8) as threads:
        received = list(
            threads.map(lambda _: httpx.post(f"{live.url}/orders/{order_id}/start", json=body()), range(8))
        )
    assert [response.status_code for response in received] == [200] * 8
    assert sorted(response.json()["status"] for response in received) == ["already_started"] * 7 + ["started"]
    live.finished(order_id)
    assert [event["kind"] for event in live.history(order_id)].count("accepted") == 1


def test_a_payment_belongs_to_one_order(live: LiveApi) -> None:
    owner = live.start(payment_id=f"pay-{(payment := new_id())}")
    live.finished(owner)
    other = new_id()
    assert is_problem(live.http.post(f"/orders/{other}/start", json=body(payment_id=f"pay-{payment}")), 409)
    assert is_problem(live.http.get(f"/orders/{other}/status"), 404)


@pytest.mark.parametrize(
    ("requested_ago", "counted"), [(timedelta(seconds=5), 5_000), (timedelta(seconds=-60), 0)]
)
def test_ingress_time_counts_from_the_requested_time(
    live: LiveApi, requested_ago: timedelta, counted: int
) -> None:
    run_id = new_id()
    due = (datetime.now(UTC) - requested_ago).isoformat()
    live.finished(live.start(run_id=run_id, requested_at=due))
    latency = live.http.get("/latency", params={"run_id": run_id}).json()
    assert counted <= latency["steps_ms"]["ingress"]["max"] < counted + 60_000


def test_an_order_requested_long_ago_still_completes(live: LiveApi) -> None:
    assert live.finished(live.start(requested_at="1970-01-01T00:00:00Z"))["status"] == "completed"


def test_a_long_poll_ends_after_its_time(live: LiveApi) -> None:
    order_id = live.start(review="manual")
    response = live.http.get(f"/orders/{order_id}/status", params={"wait": 0.5})
    assert response.json()["status"] == "running"
    assert 0.5 <= response.elapsed.total_seconds() < 5
    live.signal(order_id, "reject", reviewer="r", reason="test is over")


def test_every_long_poll_ends_with_the_outcome(live: LiveApi) -> None:
    order_id = live.start(review="manual")
    live.in_state(order_id, "in_review")
    with ThreadPoolExecutor(5) as threads:
        waiting = [
            threads.submit(httpx.get, f"{live.url}/orders/{order_id}/status?wait=20", timeout=30)
            for _ in range(5)
        ]
        assert live.signal(order_id, "cancel", reason="enough", cancelled_by="test").status_code == 200
        outcomes = {response.result().json()["status"] for response in waiting}
    assert outcomes == {"cancelled"}
    assert all(response.result().elapsed.total_seconds() < 10 for response in waiting)


def test_the_history_has_every_event_in_order(live: LiveApi) -> None:
    order_id = live.start()
    live.finished(order_id)
    response = live.http.get(f"/orders/{order_id}/history").json()
    assert responses.HistoryResponse.model_validate(response)
    events = response["events"]
    assert (events[0]["kind"], events[-1]["kind"]) == ("accepted", "outcome")
    times = [event["at"] for event in events]
    assert times == sorted(times)
    assert len(set(times)) == len(times)
    assert {"receive", "validate", "charge", "prepare", "dispatch"} <= {
        event["step"] for event in events if event["outcome"] == "ok"
    }


def test_the_pages_of_the_list_have_every_order_once(live: LiveApi) -> None:
    run_id = new_id()
    started = [live.start(run_id=run_id) for _ in range(5)]
    for order_id in started:
        live.finished(order_id)
    seen: list[str] = []
    cursor = None
    for _ in itertools.count():
        query = {"run_id": run_id, "limit": 2} | ({"cursor": cursor} if cursor else {})
        page = live.http.get("/orders", params=query).json()
        assert responses.OrderListResponse.model_validate(page)
        seen += [order["order_id"] for order in page["orders"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert seen == started[::-1]
    completed = live.http.get("/orders", params={"run_id": run_id, "state": "completed"}).json()
    assert len(completed["orders"]) == 5
    assert live.http.get("/orders", params={"run_id": run_id, "state": "failed"}).json()["orders"] == []
