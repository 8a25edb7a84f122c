"""The API while Temporal, PostgreSQL or the workers are down: 503 with Retry-After within 2 s, then
recovery."""

import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import asdict
from functools import partial
from pathlib import Path

import httpx
import psycopg
import pytest

from db import queries
from orchestrator.embedded import Stack
from orchestrator.embedded.layout import stack_environment
from orchestrator.settings import Settings
from tests.live import LiveApi, body, eventually, new_id
from tests.orders import OTHER_ADDRESS
from tests.ports import free_port_base
from tests.stacks import frozen, stopped

pytestmark = pytest.mark.stack

Request = Callable[[LiveApi, str], httpx.Response]

NEEDS_TEMPORAL: dict[str, Request] = {
    "start": lambda live, _: live.http.post(f"/orders/{new_id()}/start", json=body()),
    "status of an unknown order": lambda live, _: live.http.get(f"/orders/{new_id()}/status"),
    "cancel": lambda live, order: live.signal(order, "cancel", reason="r", cancelled_by="c"),
    "update-address": lambda live, order: live.signal(
        order, "update-address", new_address=asdict(OTHER_ADDRESS), updated_by="c"
    ),
    "audit": lambda live, _: live.http.get("/audit"),
}
NEEDS_DATABASE: dict[str, Request] = {
    "start": NEEDS_TEMPORAL["start"],
    "status": lambda live, order: live.http.get(f"/orders/{order}/status"),
    "long poll": lambda live, order: live.http.get(f"/orders/{order}/status?wait=20"),
    "history": lambda live, order: live.http.get(f"/orders/{order}/history"),
    "list": lambda live, _: live.http.get("/orders"),
    "late cancel": NEEDS_TEMPORAL["cancel"],
    "address change of a running order": NEEDS_TEMPORAL["update-address"],
    "cancel of a running order": NEEDS_TEMPORAL["cancel"],
    "latency": lambda live, _: live.http.get("/latency"),
    "latency.csv": lambda live, _: live.http.get("/latency.csv"),
    "faults": lambda live, _: live.http.get("/faults"),
    "set faults": lambda live, _: live.http.put("/faults", json={"profile": "none"}),
    "audit": NEEDS_TEMPORAL["audit"],
}


def response_within_two_seconds(send: Callable[[], httpx.Response]) -> httpx.Response:
    """Return a response that came within two seconds. Other tests can delay one response, so the request is
    sent up to three times."""
    for _ in range(3):
        response = send()
        if response.elapsed.total_seconds() < 2:
            return response
    raise AssertionError(f"the last response took {response.elapsed.total_seconds():.1f} s")


def assert_unavailable(send: Callable[[], httpx.Response]) -> None:
    response = response_within_two_seconds(send)
    assert response.status_code == 503, response.text
    assert int(response.headers["retry-after"]) >= 1
    assert response.headers["content-type"] == "application/problem+json"
    for internal_word in ("Traceback", "psycopg", "socket", "127.0.0.1", "tonic"):
        assert internal_word not in response.text


def assert_recovers(live: LiveApi) -> None:
    def start_order() -> str | None:
        order_id = new_id()
        response = live.http.post(f"/orders/{order_id}/start", json=body())
        return order_id if response.status_code == 200 else None

    order_id = eventually(start_order)
    eventually(lambda: live.http.get(f"/orders/{order_id}/status").status_code == 200)
    assert live.finished(order_id)["status"] == "completed"
    eventually(lambda: live.http.get("/health").status_code == 200)


@pytest.fixture
def finished_order(live: LiveApi) -> str:
    order_id = live.start()
    live.finished(order_id)
    return order_id


@pytest.mark.parametrize("outage", [stopped, frozen])
def test_temporal_outage(
    live: LiveApi, live_stack: Stack, finished_order: str, outage: Callable[..., AbstractContextManager[None]]
) -> None:
    with outage(live_stack, "temporal"):
        for request in NEEDS_TEMPORAL.values():
            assert_unavailable(partial(request, live, finished_order))
        # Routes that only need the database still work.
        assert live.status(finished_order)["status"] == "completed"
        health = response_within_two_seconds(lambda: live.http.get("/health"))
        assert health.status_code == 503
        assert health.json()["database_connected"]
        assert not health.json()["temporal_connected"]
    assert_recovers(live)


def test_postgres_outage(live: LiveApi, live_stack: Stack, finished_order: str) -> None:
    running = live.start(review="manual")
    live.in_state(running, "in_review")
    with stopped(live_stack, "postgres"):
        for name, request in NEEDS_DATABASE.items():
            order_id = running if name == "long poll" or "running" in name else finished_order
            assert_unavailable(partial(request, live, order_id))
        health = response_within_two_seconds(lambda: live.http.get("/health"))
        assert health.status_code == 503
        assert health.json()["temporal_connected"]
        assert not health.json()["database_connected"]
        assert "database_connected 0.0" in eventually(
            lambda: "database_connected 0.0" in (text := live.http.get("/metrics").text) and text
        )
    assert_recovers(live)
    # Temporal had accepted the cancellation, unless the review or the order expired during the outage.
    assert live.finished(running)["reason"] in ("customer_cancelled", "review_expired", "deadline")


def test_an_order_is_accepted_without_workers(live: LiveApi, live_stack: Stack) -> None:
    with stopped(live_stack, "order-worker-1"):
        order_id = live.start()
        status = live.status(order_id)
        assert (status["status"], status["state"], status["current_step"]) == (
            "running",
            "received",
            "receive",
        )
        assert live.history(order_id) == []
        again = live.http.post(f"/orders/{order_id}/start", json=body())
        assert again.json()["status"] == "already_started"
        other = live.http.post(f"/orders/{order_id}/start", json=body(review="manual"))
        assert other.status_code == 409
        response = live.signal(order_id, "cancel", reason="r", cancelled_by="c")
        assert response.status_code == 503
        assert "may still process the request" in response.json()["detail"]
    # The order processes the request when a worker is back, which can be after its deadline.
    reason = live.finished(order_id)["reason"]
    (event,) = [each for each in live.history(order_id) if each["detail"].get("signal") == "cancel_order"]
    assert reason == ("customer_cancelled" if event["detail"]["accepted"] else "deadline")


@pytest.mark.parametrize(("worker", "outage"), [("order-worker-1", frozen), ("shipping-worker-1", stopped)])
def test_health_detects_a_task_queue_without_an_active_worker(
    live: LiveApi, live_stack: Stack, worker: str, outage: Callable[..., AbstractContextManager[None]]
) -> None:
    eventually(lambda: live.http.get("/health").json()["workers_healthy"])
    with outage(live_stack, worker):
        eventually(lambda: not live.http.get("/health").json()["workers_healthy"], seconds=40)
    eventually(lambda: live.http.get("/health").json()["workers_healthy"])


def test_the_api_starts_without_servers_and_stops_within_seconds(tmp_path: Path) -> None:
    settings = Settings(
        orders_home=tmp_path, port_base=free_port_base(), database_url=None, temporal_address=None
    )
    process = subprocess.Popen([sys.executable, "-m", "orchestrator", "api"], env=stack_environment(settings))
    try:
        with LiveApi(settings.api_url) as api:
            health = eventually(lambda: _get(api, "/health"))
            assert health.status_code == 503
            assert not any(value is True for value in health.json().values())
            assert_unavailable(partial(NEEDS_TEMPORAL["start"], api, "x"))
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=10) == 0
    finally:
        process.kill()
        process.wait()


def test_long_polls_return_when_the_api_stops(live: LiveApi, live_stack: Stack) -> None:
    order_id = live.start(review="manual")
    with ThreadPoolExecutor(1) as threads:
        pending = threads.submit(live.http.get, f"/orders/{order_id}/status?wait=30")
        eventually(lambda: _is_waiting_for_outcomes(live_stack))
        live_stack.restart("api")
        response = pending.result()
    assert response.json()["status"] == "running"
    live.signal(order_id, "cancel", reason="test is over", cancelled_by="test")


def _is_waiting_for_outcomes(stack: Stack) -> bool:
    """Return whether the API has looked up outcomes in the last second, which it does for long polls only."""
    statement = queries.load("order_details.sql")["finished_among"]
    with psycopg.connect(stack.settings.order_database_url) as connection:
        found = connection.execute(
            "select from pg_stat_activity where application_name = 'api' and query like %s"
            " and query_start > now() - interval '1 second'",
            (statement.partition("%")[0] + "%",),
        )
        return found.fetchone() is not None


def _get(live: LiveApi, path: str) -> httpx.Response | None:
    try:
        return live.http.get(path)
    except httpx.TransportError:
        return None
