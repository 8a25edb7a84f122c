"""A client for the REST API of a running stack."""

import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any
from uuid import uuid4

import httpx

from orchestrator.rest_client import Json
from tests.orders import ADDRESS


class LiveApi:
    """The REST API of a running stack."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.http = httpx.Client(base_url=url, timeout=30, trust_env=False)

    def __enter__(self) -> "LiveApi":
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()

    def start(self, order_id: str | None = None, **content: Any) -> str:
        """Start an order with default content and return its id."""
        order_id = order_id or new_id()
        path, order = f"/orders/{order_id}/start", body(**content)
        response = available(lambda: self.http.post(path, json=order))
        assert response.status_code == 200, response.text
        # An unavailable API can have started the order.
        assert response.json()["status"] in ("started", "already_started")
        return order_id

    def status(self, order_id: str, wait: float = 0) -> Json:
        query = {"wait": wait} if wait else None
        response = available(lambda: self.http.get(f"/orders/{order_id}/status", params=query))
        assert response.status_code == 200, response.text
        status: Json = response.json()
        return status

    def finished(self, order_id: str) -> Json:
        status = self.status(order_id, wait=25)
        assert status["status"] != "running", status
        return status

    def in_state(self, order_id: str, state: str) -> Json:
        return eventually(lambda: (now := self.status(order_id))["state"] == state and now)

    def signal(self, order_id: str, name: str, **request: Any) -> httpx.Response:
        return self.http.post(f"/orders/{order_id}/signals/{name}", json=request)

    def history(self, order_id: str) -> list[Json]:
        response = available(lambda: self.http.get(f"/orders/{order_id}/history"))
        assert response.status_code == 200, response.text
        events: list[Json] = response.json()["events"]
        return events


def available(send: Callable[[], httpx.Response]) -> httpx.Response:
    """Send a request until the API is available: on a busy machine, the servers can need more than the second
    that it waits for them."""
    response = send()
    for _ in range(20):
        if response.status_code != 503:
            break
        time.sleep(0.5)
        response = send()
    return response


def new_id() -> str:
    return f"t-{uuid4().hex[:16]}"


def body(**content: Any) -> Json:
    """The body of POST /orders/{order_id}/start."""
    return {"initial_address": asdict(ADDRESS)} | content


def eventually(look: Callable[[], Any], seconds: float = 60.0) -> Any:
    """Call `look` until it returns a truthy value, and return that value."""
    not_after = time.monotonic() + seconds
    while not (value := look()):
        assert time.monotonic() < not_after, f"no result within {seconds:g} s"
        time.sleep(0.05)
    return value
