"""In-process open-loop load for tests that act on orders while they are being sent."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx

from db.domain import ExecutionMode

SAMPLE_ADDRESS = {"street": "1 Main Street", "city": "Springfield", "state": "IL", "zip": "62701"}
START_TIMEOUT_SECONDS = 10.0
RETRY_SECONDS = 0.2
MAX_POLLS = 200

Action = Callable[[httpx.AsyncClient, str], Awaitable[None]]


@dataclass
class LoadReport:
    """`failures` are the orders whose start was never acknowledged; `rejected` counts 429 responses."""

    run_id: str
    offered: int
    acknowledged: list[str] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)
    send_delay_ms: list[float] = field(default_factory=list)
    rejected: int = 0


async def send_orders(
    api_url: str,
    *,
    run_id: str,
    rate: float,
    count: int,
    action: Action | None = None,
    retry_for_seconds: float = 0.0,
    execution: ExecutionMode = ExecutionMode.FAST,
) -> LoadReport:
    """Start `count` orders at `rate` per second; return when each start has been acknowledged or has failed.

    The schedule is absolute: a slow system does not reduce the load. A start that fails or is rejected is
    retried for `retry_for_seconds` with the same content. `action` runs after each acknowledged start.
    """
    report = LoadReport(run_id, offered=count)
    limits = httpx.Limits(max_connections=500, max_keepalive_connections=100)
    async with httpx.AsyncClient(
        base_url=api_url, limits=limits, timeout=START_TIMEOUT_SECONDS, trust_env=False
    ) as client:

        async def send(order_id: str, due: float, due_at: datetime) -> None:
            report.send_delay_ms.append((time.perf_counter() - due) * 1000)
            body = {
                "initial_address": SAMPLE_ADDRESS,
                "run_id": run_id,
                "requested_at": due_at.isoformat(),
                "execution": execution.value,
            }
            problem = await _start(client, order_id, body, report, retry_for_seconds)
            if problem is not None:
                report.failures[order_id] = problem
                return
            report.acknowledged.append(order_id)
            if action is not None:
                await action(client, order_id)

        began, began_at = time.perf_counter(), datetime.now(UTC)
        async with asyncio.TaskGroup() as sending:
            for number in range(count):
                due = began + number / rate
                await asyncio.sleep(max(due - time.perf_counter(), 0.0))
                due_at = began_at + timedelta(seconds=number / rate)
                sending.create_task(send(f"{run_id}-{number}", due, due_at))
    return report


async def _start(
    client: httpx.AsyncClient,
    order_id: str,
    body: dict[str, Any],
    report: LoadReport,
    retry_for_seconds: float,
) -> str | None:
    """Start one order. Return None if the start was acknowledged, else the last error."""
    not_after = time.perf_counter() + retry_for_seconds
    while True:
        pause_seconds = RETRY_SECONDS
        try:
            response = await client.post(f"/orders/{order_id}/start", json=body)
        except httpx.TransportError as error:
            problem = repr(error)
        else:
            if response.status_code == httpx.codes.OK:
                return None
            problem = f"{response.status_code} {response.text}"
            if response.status_code == httpx.codes.TOO_MANY_REQUESTS:
                report.rejected += 1
                pause_seconds = float(response.headers["Retry-After"])
            elif response.status_code < httpx.codes.INTERNAL_SERVER_ERROR:
                return problem
        if time.perf_counter() >= not_after:
            return problem
        await asyncio.sleep(pause_seconds)


async def wait_for_outcomes(
    api_url: str, order_ids: list[str], *, timeout_seconds: float
) -> dict[str, dict[str, Any]]:
    """Return the final status of each order that reaches its outcome within `timeout_seconds`."""
    finished: dict[str, dict[str, Any]] = {}
    not_after = time.perf_counter() + timeout_seconds
    polls = asyncio.Semaphore(MAX_POLLS)
    async with httpx.AsyncClient(base_url=api_url, timeout=30, trust_env=False) as client:

        async def wait_for(order_id: str) -> None:
            while (left := not_after - time.perf_counter()) > 0:
                try:
                    async with polls:
                        response = await client.get(
                            f"/orders/{order_id}/status", params={"wait": round(min(left, 10.0), 3)}
                        )
                except httpx.TransportError:
                    await asyncio.sleep(RETRY_SECONDS)
                    continue
                if response.status_code != httpx.codes.OK:
                    await asyncio.sleep(RETRY_SECONDS)
                elif response.json()["status"] != "running":
                    finished[order_id] = response.json()
                    return

        await asyncio.gather(*(wait_for(order_id) for order_id in order_ids))
    return finished
