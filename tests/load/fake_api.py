"""A fake REST API with known latencies and faults: `python -m tests.load.fake_api PORT BEHAVIOUR_AS_JSON`.

`GET /truth` returns what really happened to every order, for comparison with the load generator's records.
One process with one event loop and no framework is faster than any load generator.
"""

import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, cast
from urllib.parse import parse_qs, urlsplit

import uvloop

STEP_PARTS = ("mean", "p50", "p90", "p95", "p99", "max")


@dataclass
class Behaviour:
    """Latencies and faults. `..._every` n applies to every n-th order by its number; 0 applies to none."""

    completion_ms: float = 1000.0
    slow_every: int = 0
    slow_ms: float = 15_400.0
    unfinished_every: int = 0
    review_seconds: float = 6.0
    """An order without an approval is cancelled after this time."""

    stall_at_seconds: float = 0.0
    """Seconds after the first start at which the API sends no responses for `stall_seconds`."""

    stall_seconds: float = 0.0
    lose_response_every: int = 0
    """The order starts, but the connection is closed without a response."""

    fail_every: int = 0
    """The first start fails with 503."""

    reject_every: int = 0
    """Every start is rejected with 429."""

    accept_duplicates: bool = False
    accept_late_cancels: bool = False
    """The API accepts the cancellation of a completed order, but the order stays completed."""

    violation: bool = False
    healthy: bool = True
    database_unavailable: bool = False
    """Starts and status requests fail with 503, and the health check reports it."""

    faults_delay_seconds: float = 0.0
    uncompared: int = 0
    """Number of orders that the audit does not compare with their workflows."""

    is_unavailable: bool = False
    """Every connection is closed without a response."""

    busy_audits: int = 0
    """Number of audits that are rejected with 429 before one is carried out."""

    audit_unavailable: bool = False
    audit_is_malformed: bool = False
    latency_unavailable: bool = False


@dataclass
class Order:
    number: int
    content: bytes
    received_at: float
    accepted_at: float
    completion_ms: float | None
    starts: int = 1
    outcome: str | None = None
    finished_at: float | None = None
    waiting: list[Callable[[], None]] = field(default_factory=list)
    is_in_review: bool = False
    applied_request_ids: Counter[str] = field(default_factory=Counter)
    created_at: datetime = field(default_factory=lambda: datetime.now(UTC))


class FakeApi:
    def __init__(self, behaviour: Behaviour) -> None:
        self.behaviour = behaviour
        self.loop = asyncio.get_running_loop()
        self.orders: dict[str, Order] = {}
        self.seen: set[str] = set()
        self.requests = 0
        self.operations: Counter[str] = Counter()
        self.first_start: float | None = None
        self.faults: dict[str, Any] = {"profile": "none", "seed": 0, "since": None}
        self.fault_changes: list[dict[str, Any]] = []

    def stalled_until(self) -> float:
        behaviour = self.behaviour
        if self.first_start is None or not behaviour.stall_seconds:
            return 0.0
        begins = self.first_start + behaviour.stall_at_seconds
        now = time.perf_counter()
        return begins + behaviour.stall_seconds if begins <= now < begins + behaviour.stall_seconds else 0.0

    def finish(self, order: Order, outcome: str) -> None:
        if order.outcome is not None:
            return
        order.outcome, order.finished_at = outcome, time.perf_counter()
        for respond in order.waiting:
            respond()
        order.waiting.clear()

    def truth(self) -> dict[str, Any]:
        return {
            "requests": self.requests,
            "operations": self.operations,
            "faults": self.fault_changes,
            "orders": {
                order_id: {
                    "accepted_at": order.accepted_at,
                    "completion_ms": order.completion_ms,
                    "starts": order.starts,
                    "outcome": order.outcome,
                    "requests": order.applied_request_ids,
                }
                for order_id, order in self.orders.items()
            },
        }


class Connection(asyncio.Protocol):
    """One keep-alive connection with one request at a time."""

    def __init__(self, api: FakeApi) -> None:
        self.api = api
        self.buffer = b""
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        end = self.buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self.buffer[:end]
        at = head.lower().find(b"content-length:")
        length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
        if len(self.buffer) < end + 4 + length:
            return
        body, self.buffer = self.buffer[end + 4 : end + 4 + length], self.buffer[end + 4 + length :]
        method, target, _ = head.split(b"\r\n", 1)[0].decode().split(" ")
        self.api.requests += 1
        until = self.api.stalled_until()
        if until:
            self.api.loop.call_later(until - time.perf_counter(), self.handle, method, target, body)
        else:
            self.handle(method, target, body)

    def respond(self, status: int, body: Any, media_type: str = "application/json") -> None:
        content = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        head = f"HTTP/1.1 {status} X\r\nContent-Type: {media_type}\r\nContent-Length: {len(content)}\r\n\r\n"
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(head.encode() + content)

    def drop(self) -> None:
        if self.transport is not None:
            self.transport.close()

    def handle(self, method: str, target: str, body: bytes) -> None:
        parts = urlsplit(target)
        path = parts.path.strip("/").split("/")
        if self.api.behaviour.is_unavailable and path[0] not in ("truth", "behaviour"):
            self.drop()
        elif path[0] == "orders" and len(path) > 2:
            self.handle_order(path[1], path[2:], parse_qs(parts.query), body)
        else:
            self.handle_operation(method, path[0], parse_qs(parts.query), body)

    def handle_order(self, order_id: str, action: list[str], query: dict[str, Any], body: bytes) -> None:
        if action == ["start"]:
            self.start(order_id, body)
            return
        if self.api.behaviour.database_unavailable:
            self.respond(503, {"detail": "PostgreSQL is unavailable"})
            return
        order = self.api.orders.get(order_id)
        if order is None:
            self.respond(404, {"detail": "there is no such order"})
        elif action == ["status"]:
            self.status(order_id, order, float(query.get("wait", ["0"])[0]))
        elif action[-1] == "cancel" and self.api.behaviour.accept_late_cancels:
            self.respond(200, {"accepted": True})
        elif order.outcome is not None:
            self.respond(409, {"detail": f"too late: the order is {order.outcome}"})
        else:
            self.apply(action[-1], order)
            self.respond(200, {"accepted": True})

    def apply(self, request: str, order: Order) -> None:
        order.applied_request_ids[request] += 1
        if request in ("cancel", "reject"):
            self.api.finish(order, "cancelled")
        elif request == "approve" and order.is_in_review and order.completion_ms is not None:
            order.is_in_review = False
            waited_ms = (time.perf_counter() - order.accepted_at) * 1000
            self.api.loop.call_later(order.completion_ms / 1000, self.api.finish, order, "completed")
            order.completion_ms += waited_ms

    def start(self, order_id: str, body: bytes) -> None:
        api, behaviour = self.api, self.api.behaviour
        if behaviour.database_unavailable:
            self.respond(503, {"detail": "PostgreSQL is unavailable"})
            return
        now = time.perf_counter()
        api.first_start = api.first_start or now
        order = api.orders.get(order_id)
        if order is not None:
            order.starts += 1
            if order.content == body or behaviour.accept_duplicates:
                self.respond(200, {"order_id": order_id, "status": "already_started"})
            else:
                self.respond(409, {"detail": "other content"})
            return
        number = int(order_id.rpartition("-")[2])
        if _is_nth(number, behaviour.fail_every) and order_id not in api.seen:
            api.seen.add(order_id)
            self.respond(503, {"detail": "unavailable"})
            return
        if _is_nth(number, behaviour.reject_every):
            self.respond(429, {"detail": "too many orders are in flight"})
            return
        completion_ms: float | None = (
            behaviour.slow_ms if _is_nth(number, behaviour.slow_every) else behaviour.completion_ms
        )
        if _is_nth(number, behaviour.unfinished_every):
            completion_ms = None
        order = api.orders[order_id] = Order(number, body, now, now, completion_ms)
        if json.loads(body).get("review") == "manual":
            order.is_in_review = True
            api.loop.call_later(behaviour.review_seconds, self.expire, order)
        elif completion_ms is not None:
            api.loop.call_later(completion_ms / 1000, api.finish, order, "completed")
        if _is_nth(number, behaviour.lose_response_every):
            self.drop()
        else:
            self.respond(200, {"order_id": order_id, "status": "started"})

    def expire(self, order: Order) -> None:
        if order.is_in_review:
            self.api.finish(order, "cancelled")

    def status(self, order_id: str, order: Order, wait: float) -> None:
        def respond() -> None:
            is_over = order.outcome is not None
            elapsed = ((order.finished_at or 0.0) - order.accepted_at) * 1000
            self.respond(
                200,
                {
                    "order_id": order_id,
                    "status": order.outcome if is_over else "running",
                    "created_at": order.created_at.isoformat(timespec="milliseconds"),
                    "reason": "customer_cancelled" if order.outcome == "cancelled" else None,
                    # The configured time, unless a request ended the order sooner.
                    "completion_ms": (order.completion_ms if order.outcome == "completed" else elapsed)
                    if is_over
                    else None,
                },
            )

        if order.outcome is not None or wait <= 0:
            respond()
            return

        def respond_once() -> None:
            timer.cancel()
            respond()

        def time_out() -> None:
            order.waiting.remove(respond_once)
            respond()

        timer = self.api.loop.call_later(wait, time_out)
        order.waiting.append(respond_once)

    def handle_operation(self, method: str, name: str, query: dict[str, Any], body: bytes) -> None:
        api, behaviour = self.api, self.api.behaviour
        api.operations[name] += 1
        if name == "health":
            status = 200 if behaviour.healthy and not behaviour.database_unavailable else 503
            self.respond(
                status,
                {
                    "temporal_connected": behaviour.healthy,
                    "database_connected": not behaviour.database_unavailable,
                    "workers_healthy": True,
                },
            )
        elif name == "whoami":
            self.respond(200, {"name": None, "role": "chaos"})
        elif name == "faults":
            if method == "PUT":
                change = json.loads(body)
                api.fault_changes.append(change)
                api.faults = change | {"since": datetime.now(UTC).isoformat()}
            api.loop.call_later(behaviour.faults_delay_seconds, self.respond, 200, api.faults)
        elif name == "audit" and behaviour.audit_unavailable:
            self.drop()
        elif name == "audit" and behaviour.busy_audits:
            behaviour.busy_audits -= 1
            self.respond(429, {"detail": "too many audits are running"})
        elif name == "audit":
            self.respond(
                200, {"clean": True} if behaviour.audit_is_malformed else self.audit(query["run_id"][0])
            )
        elif name == "latency" and behaviour.latency_unavailable:
            self.drop()
        elif name == "latency":
            self.respond(200, {"steps_ms": {"charge": dict.fromkeys(STEP_PARTS, 120.0)}})
        elif name == "latency.csv":
            self.respond(200, self.csv(query["run_id"][0]), "text/csv")
        elif name == "truth":
            self.respond(200, api.truth())
        elif name == "behaviour":
            api.behaviour = Behaviour(**json.loads(body))
            self.respond(200, {})
        else:
            self.respond(404, {"detail": "not found"})

    def audit(self, run_id: str) -> dict[str, Any]:
        of_run = {name: order for name, order in self.api.orders.items() if name.startswith(f"{run_id}-")}
        finished = [order for order in of_run.values() if order.outcome is not None]
        violation = {"invariant": 3, "order_id": f"{run_id}-0", "finding": "charged twice", "evidence": {}}
        behaviour = self.api.behaviour
        violations = [violation] if behaviour.violation else []
        return {
            "run_id": run_id,
            "clean": not violations,
            "finished": len(finished),
            "late": sum((order.completion_ms or 0) > 15_000 for order in finished),
            "open": len(of_run) - len(finished),
            "workflows_checked": len(finished) - behaviour.uncompared,
            "uncompared": behaviour.uncompared,
            "violations": violations,
        }

    def csv(self, run_id: str) -> str:
        lines = ["order_id,run_id,completion_ms"]
        lines += [
            f"{name},{run_id},{order.completion_ms:.0f}"
            for name, order in self.api.orders.items()
            if name.startswith(f"{run_id}-") and order.outcome is not None and order.completion_ms is not None
        ]
        return "\n".join(lines) + "\n"


def _is_nth(number: int, every: int) -> bool:
    return every > 0 and number % every == every - 1


async def serve(port: int, behaviour: Behaviour) -> None:
    api = FakeApi(behaviour)
    server = await api.loop.create_server(lambda: Connection(api), "127.0.0.1", port, backlog=2_000)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]} {datetime.now(UTC).isoformat()}\n")
    sys.stdout.flush()
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), Behaviour(**json.loads(sys.argv[2] if len(sys.argv) > 2 else "{}"))))
