"""Measurements of single orders: alone on the system, and their CPU time."""

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime

import httpx
import psutil

from db.domain import Address, ExecutionMode
from loadtest.bench.baseline import baseline_workers, run_baseline_order
from loadtest.bench.harness import SAMPLE_ADDRESS, Bench, Measurement, timed_ms, unique_id
from orchestrator.messages.ids import order_workflow_id
from orchestrator.messages.orders import OrderRequest
from orchestrator.workflows.step_execution import WORKFLOW_TASK_TIMEOUT

ALONE_COUNT = 40
CPU_RATE = 8.0
CPU_COUNT = 160
CPU_ROUNDS = 3
API_COUNT = 100
API_START_INTERVAL_SECONDS = 0.25
STATUS_WAIT_SECONDS = 20


async def alone(bench: Bench) -> list[Measurement]:
    """Measure one order at a time without review time, alternating with the baseline."""
    with baseline_workers(bench.settings):
        await bench.set_faults("none")
        await run_baseline_order(bench.client)
        await _run_order(bench)
        baseline_ms, order_ms = [], []
        for _ in range(ALONE_COUNT):
            baseline_ms.append(await timed_ms(run_baseline_order(bench.client)))
            order_ms.append(await timed_ms(_run_order(bench)))
    baseline_p50, order_p50 = statistics.median(baseline_ms), statistics.median(order_ms)
    return [
        Measurement("one order alone, review 0 s, p50", f"{order_p50:.0f} ms"),
        Measurement("baseline alone, p50", f"{baseline_p50:.0f} ms"),
        Measurement("ratio", f"{order_p50 / baseline_p50:.2f}", "at most 2"),
    ]


async def cpu_per_order(bench: Bench) -> list[Measurement]:
    """Measure CPU time per order in each execution mode and under faults, alternating with the baseline."""
    server_and_workers = bench.pids("temporal", "order-worker", "shipping-worker")
    postgres = bench.pids("postgres")
    baseline_ms, plain_ms, plain_all_ms, faulty_all_ms = [], [], [], []
    visible_ms, visible_all_ms = [], []

    async def order(execution: ExecutionMode = ExecutionMode.FAST) -> None:
        await _run_order(bench, bench.settings.auto_review_seconds, execution)

    async def visible_order() -> None:
        await order(ExecutionMode.VISIBLE)

    with baseline_workers(bench.settings) as baseline_pids:
        await run_baseline_order(bench.client)
        for _ in range(CPU_ROUNDS):
            pids = [*bench.pids("temporal"), *baseline_pids]
            baseline_ms += await _cpu_ms_per_order(lambda: run_baseline_order(bench.client), pids)
            await bench.set_faults("none")
            plain, of_postgres = await _cpu_ms_per_order(order, server_and_workers, postgres)
            plain_ms.append(plain)
            plain_all_ms.append(plain + of_postgres)
            visible, of_postgres = await _cpu_ms_per_order(visible_order, server_and_workers, postgres)
            visible_ms.append(visible)
            visible_all_ms.append(visible + of_postgres)
            await bench.set_faults("assignment")
            faulty_all_ms += await _cpu_ms_per_order(order, server_and_workers + postgres)
    await bench.set_faults("none")
    base = statistics.median(baseline_ms)
    plain, plain_all, faulty = (statistics.median(each) for each in (plain_ms, plain_all_ms, faulty_all_ms))
    visible, visible_all = statistics.median(visible_ms), statistics.median(visible_all_ms)
    return [
        Measurement("CPU per baseline order: server + workers", f"{base:.0f} ms"),
        Measurement("CPU per order, no faults: server + workers", f"{plain:.0f} ms"),
        Measurement("ratio", f"{plain / base:.2f}", "at most 1.4"),
        Measurement("CPU per order, no faults: with PostgreSQL", f"{plain_all:.0f} ms"),
        Measurement("ratio", f"{plain_all / base:.2f}", "at most 1.3"),
        Measurement("CPU per order, assignment faults: with PostgreSQL", f"{faulty:.0f} ms"),
        Measurement("ratio", f"{faulty / base:.2f}", "at most 1.4"),
        Measurement("CPU per `visible` order, no faults: server + workers", f"{visible:.0f} ms"),
        Measurement("ratio", f"{visible / base:.2f}", "at most 1.5"),
        Measurement("CPU per `visible` order, no faults: with PostgreSQL", f"{visible_all:.0f} ms"),
        Measurement("ratio", f"{visible_all / base:.2f}"),
        Measurement("ratio to `fast` execution", f"{visible_all / plain_all:.2f}"),
    ]


async def api_latency(bench: Bench) -> list[Measurement]:
    """Measure start and status requests over HTTP without other load."""
    await bench.set_faults("none")
    run_id = unique_id("api")
    body = {"initial_address": SAMPLE_ADDRESS, "run_id": run_id}
    order_ids = [f"{run_id}-{number}" for number in range(API_COUNT)]
    start_ms = []
    async with httpx.AsyncClient(base_url=bench.api_url, timeout=30, trust_env=False) as http:
        for order_id in order_ids:
            start_ms.append(await timed_ms(http.post(f"/orders/{order_id}/start", json=body)))
            await asyncio.sleep(API_START_INTERVAL_SECONDS)
        for order_id in order_ids:
            await http.get(f"/orders/{order_id}/status", params={"wait": STATUS_WAIT_SECONDS})
        status_ms = [await timed_ms(http.get(f"/orders/{order_id}/status")) for order_id in order_ids]
    return [
        Measurement("API start, p50", f"{statistics.median(start_ms):.1f} ms", "at most 25 ms"),
        Measurement("API status, p50", f"{statistics.median(status_ms):.1f} ms", "at most 10 ms"),
    ]


def cpu_ms(pids: Sequence[int]) -> float:
    """Return the CPU time of processes and their children since their start, ended children included."""
    used = 0.0
    for pid in pids:
        process = psutil.Process(pid)
        # The children_* times of a process cover all of its ended descendants.
        times = process.cpu_times()
        used += times.user + times.system + times.children_user + times.children_system
        for child in process.children(recursive=True):
            try:
                times = child.cpu_times()
            except psutil.NoSuchProcess:
                continue
            used += times.user + times.system
    return used * 1000


async def _cpu_ms_per_order(order: Callable[[], Awaitable[None]], *groups: Sequence[int]) -> list[float]:
    """Run CPU_COUNT orders at CPU_RATE and return the CPU time per order of each group of processes."""
    before = [cpu_ms(pids) for pids in groups]
    began = time.perf_counter()
    tasks = []
    for number in range(CPU_COUNT):
        await asyncio.sleep(max(began + number / CPU_RATE - time.perf_counter(), 0.0))
        tasks.append(asyncio.ensure_future(order()))
    await asyncio.gather(*tasks)
    return [(cpu_ms(pids) - used) / CPU_COUNT for pids, used in zip(groups, before, strict=True)]


async def _run_order(
    bench: Bench, review_seconds: float = 0.0, execution: ExecutionMode = ExecutionMode.FAST
) -> None:
    """Run one order through Temporal's client, without the API."""
    order_id = unique_id("order")
    await bench.client.execute_workflow(
        "OrderWorkflow",
        OrderRequest(
            order_id=order_id,
            initial_address=Address(**SAMPLE_ADDRESS),
            payment_id=f"pay-{order_id}",
            requested_at=datetime.now(UTC),
            auto_review_seconds=review_seconds,
            execution=execution,
        ),
        id=order_workflow_id(order_id),
        task_queue=bench.settings.order_task_queue,
        task_timeout=WORKFLOW_TASK_TIMEOUT,
    )
