"""An open-loop generator in one process: orders on an absolute schedule, whatever the system does.

The schedule is never re-based after a stall, so a slow system meets the load it would meet in life, and
each order's time counts from when it was due.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx

SAMPLE_ADDRESS = {"street": "1 Main Street", "city": "Springfield", "state": "IL", "zip": "62701"}
START_TIMEOUT_SECONDS = 10.0
START_RETRY_SECONDS = 0.2

Action = Callable[[httpx.AsyncClient, str], Awaitable[None]]
"""What is done with an order besides starting it."""


@dataclass
class DriveReport:
    """What the generator saw. Times in milliseconds.

    `lag_ms` is how late each order was sent; `start_ms` how long its start took to be acknowledged;
    `failures` the orders whose start was never acknowledged; `shed` how often one was told to come again.
    """

    run_id: str
    offered: int
    acknowledged: list[str] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)
    lag_ms: list[float] = field(default_factory=list)
    start_ms: list[float] = field(default_factory=list)
    retries: int = 0
    shed: int = 0


async def drive(
    api_url: str,
    *,
    run_id: str,
    rate: float,
    count: int,
    action: Action | None = None,
    body: dict[str, Any] | None = None,
    retry_for_seconds: float = 0.0,
) -> DriveReport:
    """Starts `count` orders at `rate` a second and returns when each start was answered.

    A start that fails, or is told to come again, is repeated for `retry_for_seconds` with the same content,
    as a careful client would; starting is idempotent.
    """
    report = DriveReport(run_id, offered=count)
    limits = httpx.Limits(max_connections=500, max_keepalive_connections=100)
    async with httpx.AsyncClient(
        base_url=api_url, limits=limits, timeout=START_TIMEOUT_SECONDS, trust_env=False
    ) as client:

        async def one(order_id: str, due: float, due_at: datetime) -> None:
            report.lag_ms.append((time.perf_counter() - due) * 1000)
            content = {"initial_address": SAMPLE_ADDRESS, **(body or {})}
            content |= {"run_id": run_id, "requested_at": due_at.isoformat()}
            sent = time.perf_counter()
            problem = await _start(client, order_id, content, report, retry_for_seconds)
            if problem is not None:
                report.failures[order_id] = problem
                return
            report.start_ms.append((time.perf_counter() - sent) * 1000)
            report.acknowledged.append(order_id)
            if action is not None:
                await action(client, order_id)

        began, began_at = time.perf_counter(), datetime.now(UTC)
        orders = []
        for number in range(count):
            due = began + number / rate
            await asyncio.sleep(max(due - time.perf_counter(), 0.0))
            due_at = began_at + timedelta(seconds=number / rate)
            orders.append(asyncio.create_task(one(f"{run_id}-{number}", due, due_at)))
        await asyncio.gather(*orders)
    return report


async def _start(
    client: httpx.AsyncClient,
    order_id: str,
    content: dict[str, Any],
    report: DriveReport,
    retry_for_seconds: float,
) -> str | None:
    """Starts one order. Returns None when it was acknowledged, else what went wrong last."""
    give_up = time.perf_counter() + retry_for_seconds
    while True:
        pause_seconds = START_RETRY_SECONDS
        try:
            response = await client.post(f"/orders/{order_id}/start", json=content)
        except httpx.TransportError as error:
            problem = repr(error)
        else:
            if response.status_code == httpx.codes.OK:
                return None
            problem = f"{response.status_code} {response.text}"
            if response.status_code == httpx.codes.TOO_MANY_REQUESTS:
                report.shed += 1
                pause_seconds = float(response.headers["Retry-After"])
            elif response.status_code < httpx.codes.INTERNAL_SERVER_ERROR:
                return problem
        if time.perf_counter() >= give_up:
            return problem
        report.retries += 1
        await asyncio.sleep(pause_seconds)


async def outcomes(
    api_url: str,
    order_ids: list[str],
    *,
    time_budget_seconds: float,
    progress: Callable[[int], None] | None = None,
) -> dict[str, dict[str, Any]]:
    """The final status of each order that reached its outcome within `time_budget_seconds`."""
    finished: dict[str, dict[str, Any]] = {}
    give_up = time.perf_counter() + time_budget_seconds
    gate = asyncio.Semaphore(200)
    async with httpx.AsyncClient(base_url=api_url, timeout=30, trust_env=False) as client:

        async def wait_for(order_id: str) -> None:
            while (left := give_up - time.perf_counter()) > 0:
                try:
                    async with gate:
                        response = await client.get(
                            f"/orders/{order_id}/status", params={"wait": round(min(left, 10.0), 3)}
                        )
                except httpx.TransportError:
                    await asyncio.sleep(START_RETRY_SECONDS)
                    continue
                if response.status_code == httpx.codes.OK and response.json()["status"] != "running":
                    finished[order_id] = response.json()
                    if progress is not None:
                        progress(len(finished))
                    return
                if response.status_code != httpx.codes.OK:
                    await asyncio.sleep(START_RETRY_SECONDS)

        await asyncio.gather(*(wait_for(order_id) for order_id in order_ids))
    return finished
