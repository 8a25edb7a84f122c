"""The measures of the performance table. Each returns rows; none judges."""

import asyncio
import csv
import io
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import uuid4

import httpx
import psutil
from temporalio.client import Client

from db.domain import Address
from loadtest.bench import baseline
from loadtest.bench.cpu import CpuMeter, spent_ms
from loadtest.proofs.async_load import SAMPLE_ADDRESS, drive, outcomes
from orchestrator.embedded import Stack
from orchestrator.messages import OrderRequest
from orchestrator.settings import Settings
from orchestrator.workflow_ids import order_workflow_id
from orchestrator.workflows.step_execution import WORKFLOW_TASK_TIMEOUT

COMPARE_RATE = 8.0
COMPARE_COUNT = 160
COMPARE_ROUNDS = 3
ALONE_COUNT = 40
API_COUNT = 100
START_SPACING_SECONDS = 0.25
DRAIN_SECONDS = 60.0
DRAIN_LOOK_SECONDS = 0.5
CANCELLATION: dict[str, object] = {"reason": "bench", "cancelled_by": "bench"}
ADDRESS_CHANGE: dict[str, object] = {"new_address": SAMPLE_ADDRESS, "updated_by": "bench"}


@dataclass(frozen=True)
class Row:
    """One line of the table. `target` is what the product promises, in words."""

    measure: str
    value: str
    target: str = ""


@dataclass(frozen=True)
class Bench:
    """A running stack to measure, and a connection to its Temporal server."""

    settings: Settings
    stack: Stack
    client: Client

    @property
    def api_url(self) -> str:
        return self.settings.api_url

    def pids(self, *kinds: str) -> dict[str, int]:
        return {
            component.name: component.pid
            for component in self.stack.components()
            if component.pid is not None and component.name.startswith(kinds)
        }

    async def set_faults(self, profile: str, seed: int = 1) -> None:
        """Sets the profile and waits until every worker follows it."""
        async with httpx.AsyncClient(base_url=self.api_url, trust_env=False) as http:
            response = await http.put("/faults", json={"profile": profile, "seed": seed})
            response.raise_for_status()
        await asyncio.sleep(1.0)


def run_name(measure: str) -> str:
    return f"bench-{measure}-{uuid4().hex[:8]}"


async def alone(bench: Bench) -> list[Row]:
    """One order at a time, review 0 s, against the bare shape, in turn."""
    with bare_workers(bench.settings):
        await bench.set_faults("none")
        await _one_bare(bench.client)
        await _one_order(bench)
        bare_ms, order_ms = [], []
        for _ in range(ALONE_COUNT):
            bare_ms.append(await _timed_ms(_one_bare(bench.client)))
            order_ms.append(await _timed_ms(_one_order(bench)))
    bare_p50, order_p50 = statistics.median(bare_ms), statistics.median(order_ms)
    return [
        Row("one order alone, review 0 s, p50", f"{order_p50:.0f} ms"),
        Row("the bare shape alone, p50", f"{bare_p50:.0f} ms"),
        Row("ratio", f"{order_p50 / bare_p50:.2f}", "at most 2"),
    ]


async def cpu_per_order(bench: Bench) -> list[Row]:
    """CPU per order of the product, faults off and on, against the bare shape, in turn."""
    parts = bench.pids("temporal", "order-worker", "shipping-worker", "postgres")
    without_postgres = {name: pid for name, pid in parts.items() if name != "postgres"}
    bare_ms, plain_ms, plain_all_ms, faulty_all_ms = [], [], [], []
    with bare_workers(bench.settings) as bare_pids:
        await _one_bare(bench.client)
        for _ in range(COMPARE_ROUNDS):
            server = bench.pids("temporal")
            bare_ms.append(await _cpu_ms(server | bare_pids, lambda: _drive_bare(bench.client)))
            await bench.set_faults("none")
            meter, meter_all = CpuMeter(without_postgres), CpuMeter(parts)
            before, before_all = meter.read_ms(), meter_all.read_ms()
            await _drive_orders(bench)
            plain_ms.append(spent_ms(before, meter.read_ms()) / COMPARE_COUNT)
            plain_all_ms.append(spent_ms(before_all, meter_all.read_ms()) / COMPARE_COUNT)
            await bench.set_faults("assignment")
            faulty_all_ms.append(await _cpu_ms(parts, lambda: _drive_orders(bench)))
    await bench.set_faults("none")
    base = statistics.median(bare_ms)
    plain, plain_all, faulty = (statistics.median(each) for each in (plain_ms, plain_all_ms, faulty_all_ms))
    return [
        Row("CPU of the bare shape: server + workers", f"{base:.0f} ms"),
        Row("CPU per order, no faults: server + workers", f"{plain:.0f} ms"),
        Row("ratio", f"{plain / base:.2f}", "at most 1.4"),
        Row("CPU per order, no faults: with PostgreSQL", f"{plain_all:.0f} ms"),
        Row("ratio", f"{plain_all / base:.2f}", "at most 1.3"),
        Row("CPU per order, assignment faults: with PostgreSQL", f"{faulty:.0f} ms"),
        Row("ratio", f"{faulty / base:.2f}", "at most 1.4"),
    ]


async def api_latency(bench: Bench) -> list[Row]:
    """Start and status over HTTP, nothing else running."""
    await bench.set_faults("none")
    run_id = run_name("api")
    start_ms = []
    body = {"initial_address": SAMPLE_ADDRESS, "run_id": run_id}
    order_ids = [f"{run_id}-{number}" for number in range(API_COUNT)]
    async with httpx.AsyncClient(base_url=bench.api_url, timeout=10, trust_env=False) as http:
        for order_id in order_ids:
            start_ms.append(await _timed_ms(http.post(f"/orders/{order_id}/start", json=body)))
            await asyncio.sleep(START_SPACING_SECONDS)
        await outcomes(bench.api_url, order_ids, time_budget_seconds=20)
        status_ms = [await _timed_ms(http.get(f"/orders/{order_id}/status")) for order_id in order_ids]
    return [
        Row("API start, p50", f"{statistics.median(start_ms):.1f} ms", "at most 25 ms"),
        Row("API status, p50", f"{statistics.median(status_ms):.1f} ms", "at most 10 ms"),
    ]


async def restart(bench: Bench) -> list[Row]:
    """From a stopped stack with data to a healthy one."""
    seconds = []
    for _ in range(3):
        await asyncio.to_thread(bench.stack.down)
        began = time.perf_counter()
        await asyncio.to_thread(bench.stack.up)
        seconds.append(time.perf_counter() - began)
    return [
        Row(
            "up, from stopped with data to healthy, median",
            f"{statistics.median(seconds):.1f} s",
            "under 10 s",
        )
    ]


async def promise(bench: Bench, minutes: float = 5.0, rate: float = 10.0) -> list[Row]:
    """The promise under the assignment faults."""
    figures = await under_faults(bench, rate, minutes * 60)
    return [
        Row(f"{rate:g}/s for {minutes:g} min, assignment faults: orders", f"{figures.orders}"),
        Row("late", f"{figures.late}", "0"),
        Row("completed", f"{figures.completed}", "every order"),
        Row("completion p50", f"{figures.p50_ms / 1000:.2f} s", "at most 4 s"),
        Row("completion p99", f"{figures.p99_ms / 1000:.2f} s", "at most 8 s"),
        Row("completion max", f"{figures.max_ms / 1000:.2f} s", "15 s"),
    ]


async def capacity(bench: Bench, seconds: float = 60.0) -> list[Row]:
    """The highest rate held for a minute with no order late."""
    rows = []
    held = 0
    for rate in range(12, 31, 2):
        figures = await under_faults(bench, rate, seconds)
        rows.append(
            Row(
                f"{rate}/s for {seconds:g} s, assignment faults",
                f"{figures.late} late of {figures.orders}, p50 {figures.p50_ms / 1000:.2f} s, "
                f"p99 {figures.p99_ms / 1000:.2f} s, machine {figures.busy_percent:.0f} % busy",
            )
        )
        if figures.late or figures.completed < figures.orders:
            break
        held = rate
    return [*rows, Row("highest rate held with 0 late", f"{held}/s", "at least 14/s")]


async def answers(bench: Bench, rate: float = 8.0, seconds: float = 60.0) -> list[Row]:
    """How soon cancellations and address changes are answered while orders run under faults."""
    await bench.set_faults("assignment")
    run_id = run_name("answers")
    answer_ms: list[float] = []

    async def ask(http: httpx.AsyncClient, order_id: str) -> None:
        number = int(order_id.rsplit("-", 1)[1])
        # Spread over the first four seconds of the orders' lives, evenly.
        await asyncio.sleep(number * 0.618 % 1.0 * 4.0)
        if number % 2:
            path, body = "cancel", CANCELLATION
        else:
            path, body = "update-address", ADDRESS_CHANGE
        began = time.perf_counter()
        response = await http.post(f"/orders/{order_id}/signals/{path}", json=body)
        if response.status_code not in (httpx.codes.OK, httpx.codes.CONFLICT):
            response.raise_for_status()
        answer_ms.append((time.perf_counter() - began) * 1000)

    report = await drive(bench.api_url, run_id=run_id, rate=rate, count=int(rate * seconds), action=ask)
    await outcomes(bench.api_url, report.acknowledged, time_budget_seconds=40)
    await bench.set_faults("none")
    return [
        Row(f"cancel or address change at {rate:g}/s: answers", f"{len(answer_ms)}"),
        Row("answered, p50", f"{_percentile(answer_ms, 0.5):.0f} ms"),
        Row("answered, p99", f"{_percentile(answer_ms, 0.99):.0f} ms", "at most 1500 ms"),
    ]


@dataclass(frozen=True)
class Figures:
    orders: int
    completed: int
    late: int
    p50_ms: int
    p99_ms: int
    max_ms: int
    busy_percent: float


async def under_faults(bench: Bench, rate: float, seconds: float, profile: str = "assignment") -> Figures:
    """Drives orders under faults and waits for all; an order without outcome counts as late."""
    await bench.set_faults(profile)
    psutil.cpu_percent()
    run_id = run_name("faults")
    report = await drive(bench.api_url, run_id=run_id, rate=rate, count=int(rate * seconds))
    busy = psutil.cpu_percent()
    finished = await _finished(bench, run_id, len(report.acknowledged))
    await bench.set_faults("none")
    times = [int(order["completion_ms"]) for order in finished]
    on_time = sum(1 for order in finished if order["within_limit"] == "true")
    return Figures(
        orders=report.offered,
        completed=sum(1 for order in finished if order["outcome"] == "completed"),
        late=report.offered - on_time,
        p50_ms=round(_percentile(times, 0.5)),
        p99_ms=round(_percentile(times, 0.99)),
        max_ms=max(times, default=0),
        busy_percent=busy,
    )


async def _finished(bench: Bench, run_id: str, awaited: int) -> list[dict[str, str]]:
    """The latency rows of a run once so many orders have their outcome, or nobody believes in the rest.

    All at once in the end: to ask for each order would disturb the last ones, which are still under way.
    """
    not_after = time.perf_counter() + DRAIN_SECONDS
    async with httpx.AsyncClient(base_url=bench.api_url, timeout=30, trust_env=False) as http:
        while True:
            summary = await http.get("/latency", params={"run_id": run_id})
            summary.raise_for_status()
            if summary.json()["count"] >= awaited or time.perf_counter() > not_after:
                break
            await asyncio.sleep(DRAIN_LOOK_SECONDS)
        rows = await http.get("/latency.csv", params={"run_id": run_id})
        rows.raise_for_status()
    return list(csv.DictReader(io.StringIO(rows.text)))


@contextmanager
def bare_workers(settings: Settings) -> Iterator[dict[str, int]]:
    """As many bare workers as the stack has of its own; yields their pids by name."""
    queues = [baseline.ORDER_QUEUE] * settings.order_workers + [
        baseline.SHIPPING_QUEUE
    ] * settings.shipping_workers
    processes = [
        subprocess.Popen([sys.executable, "-m", "loadtest.bench.baseline", queue]) for queue in queues
    ]
    try:
        yield {f"bare-{number}": process.pid for number, process in enumerate(processes)}
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait()


async def _drive_bare(client: Client) -> None:
    async def one() -> None:
        await _one_bare(client)

    await _at_compare_rate(one)


async def _drive_orders(bench: Bench) -> None:
    async def one() -> None:
        await _one_order(bench, review_seconds=bench.settings.auto_review_seconds)

    await _at_compare_rate(one)


async def _at_compare_rate(one: Callable[[], Awaitable[None]]) -> None:
    began = time.perf_counter()
    tasks = []
    for number in range(COMPARE_COUNT):
        await asyncio.sleep(max(began + number / COMPARE_RATE - time.perf_counter(), 0.0))
        tasks.append(asyncio.ensure_future(one()))
    await asyncio.gather(*tasks)


async def _cpu_ms(parts: dict[str, int], work: Callable[[], Awaitable[None]]) -> float:
    meter = CpuMeter(parts)
    before = meter.read_ms()
    await work()
    return spent_ms(before, meter.read_ms()) / COMPARE_COUNT


async def _one_bare(client: Client) -> None:
    order_id = uuid4().hex
    await client.execute_workflow(
        baseline.BareOrderWorkflow.run, order_id, id=f"bare-{order_id}", task_queue=baseline.ORDER_QUEUE
    )


async def _one_order(bench: Bench, review_seconds: float = 0.0) -> None:
    order_id = run_name("cpu")
    await bench.client.execute_workflow(
        "OrderWorkflow",
        OrderRequest(
            order_id=order_id,
            initial_address=Address(**SAMPLE_ADDRESS),
            payment_id=f"pay-{order_id}",
            requested_at=datetime.now(UTC),
            auto_review_seconds=review_seconds,
        ),
        id=order_workflow_id(order_id),
        task_queue=bench.settings.order_task_queue,
        task_timeout=WORKFLOW_TASK_TIMEOUT,
    )


async def _timed_ms(work: Awaitable[object]) -> float:
    began = time.perf_counter()
    await work
    return (time.perf_counter() - began) * 1000


def _percentile(values: list[int] | list[float], share: float) -> float:
    """The smallest value that at least `share` of all do not exceed; 0 for no values."""
    if not values:
        return 0.0
    ordered = sorted(values)
    return float(ordered[max(0, -(-len(ordered) * int(share * 1000) // 1000) - 1)])
