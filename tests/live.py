"""A running stack as its users see it: over HTTP."""

import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any
from uuid import uuid4

import httpx

from tests.orders import ADDRESS

Json = dict[str, Any]


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
        """Starts an order with next to no content of its own; returns its id."""
        order_id = order_id or new_id()
        answer = self.http.post(f"/orders/{order_id}/start", json=body(**content))
        assert answer.status_code == 200, answer.text
        assert answer.json()["status"] == "started"
        return order_id

    def status(self, order_id: str, wait: float = 0) -> Json:
        answer = self.http.get(f"/orders/{order_id}/status", params={"wait": wait} if wait else None)
        assert answer.status_code == 200, answer.text
        status: Json = answer.json()
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
        answer = self.http.get(f"/orders/{order_id}/history")
        assert answer.status_code == 200, answer.text
        events: list[Json] = answer.json()["events"]
        return events


def new_id() -> str:
    return f"t-{uuid4().hex[:16]}"


def body(**content: Any) -> Json:
    """What POST /orders/{order_id}/start takes."""
    return {"initial_address": asdict(ADDRESS)} | content


def eventually(look: Callable[[], Any], seconds: float = 20.0) -> Any:
    """The first truthy thing that `look` sees."""
    not_after = time.monotonic() + seconds
    while not (seen := look()):
        assert time.monotonic() < not_after, "this did not happen in time"
        time.sleep(0.05)
    return seen
