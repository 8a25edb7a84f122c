"""Measurements under load, taken from the verdicts and reports of load tests."""

import asyncio
import csv
from dataclasses import dataclass

import psutil

from loadtest.bench.harness import Bench, Measurement
from loadtest.proofs.proof import FinishedRun, run_load_test

START_ONLY = "--scenario=start-only"
REQUEST_RATE = 8.0
REQUEST_SECONDS = 60.0


@dataclass(frozen=True)
class LoadResult:
    """Result of a load test. An order without an outcome is late; `cpu_percent` is of the whole machine."""

    orders: int
    completed: int
    late: int
    p50_ms: float
    p99_ms: float
    max_ms: float
    cpu_percent: float


async def promise(bench: Bench, minutes: float = 5.0, rate: float = 10.0) -> list[Measurement]:
    """Measure the promise of the product: orders under the assignment's faults."""
    result = await run_load(bench, rate, minutes * 60)
    return [
        Measurement(
            f"{rate:g}/s for {minutes:g} min, assignment faults: late",
            f"{result.late} of {result.orders}",
            "0",
        ),
        Measurement("completed", f"{100 * result.completed / result.orders:.1f} %", "100 %"),
        Measurement("completion p50", f"{result.p50_ms / 1000:.2f} s", "at most 4 s"),
        Measurement("completion p99", f"{result.p99_ms / 1000:.2f} s", "at most 8 s"),
        Measurement("completion max", f"{result.max_ms / 1000:.2f} s", "15 s"),
    ]


async def capacity(bench: Bench, seconds: float = 60.0) -> list[Measurement]:
    """Find the highest rate held for a minute without a late order."""
    rows = []
    held = 0
    for rate in range(12, 31, 2):
        result = await run_load(bench, rate, seconds)
        rows.append(
            Measurement(
                f"{rate}/s for {seconds:g} s, assignment faults",
                f"{result.late} late of {result.orders}, p50 {result.p50_ms / 1000:.2f} s, "
                f"p99 {result.p99_ms / 1000:.2f} s, CPU {result.cpu_percent:.0f} %",
            )
        )
        if result.late or result.completed < result.orders:
            break
        held = rate
    return [*rows, Measurement("highest rate held with 0 late", f"{held}/s", "at least 14/s")]


async def request_latency(bench: Bench) -> list[Measurement]:
    """Measure how fast cancellations and address changes are answered under faults."""
    rows = []
    for name, scenario in (("cancel", "cancel-storm"), ("address", "address-churn")):
        run = await _load_test(
            bench, f"--scenario={scenario}", f"--rate={REQUEST_RATE:g}", f"--duration={REQUEST_SECONDS:g}s",
            "--faults=assignment",
        )  # fmt: skip
        with (run.directory / "locust_stats.csv").open(encoding="utf-8") as file:
            # Accepted requests are the entry `cancel`, others `cancel, too late`.
            entries = [row for row in csv.DictReader(file) if row["Name"].split(",")[0] == name]
        rows += [
            Measurement(
                f"{name} requests at {REQUEST_RATE:g} orders/s, assignment faults",
                str(sum(int(entry["Request Count"]) for entry in entries)),
            ),
            Measurement("response time, p50", f"{max(int(entry['50%']) for entry in entries)} ms"),
            Measurement(
                "response time, p99",
                f"{max(int(entry['99%']) for entry in entries)} ms",
                "at most 1500 ms",
            ),
        ]
    return rows


async def run_load(bench: Bench, rate: float, seconds: float, faults: str = "assignment") -> LoadResult:
    """Run one load test and return its result."""
    psutil.cpu_percent()
    run = await _load_test(
        bench, START_ONLY, f"--rate={rate:g}", f"--duration={seconds:g}s", f"--faults={faults}"
    )
    cpu_percent = psutil.cpu_percent()
    limit, completion = run.report["limit"], run.report["times"]["completion_ms"] or {}
    return LoadResult(
        orders=limit["orders"],
        completed=run.report["outcomes"].get("completed", 0),
        late=limit["late"],
        p50_ms=completion.get("p50", 0.0),
        p99_ms=completion.get("p99", 0.0),
        max_ms=completion.get("max", 0.0),
        cpu_percent=cpu_percent,
    )


async def _load_test(bench: Bench, *options: str) -> FinishedRun:
    return await asyncio.to_thread(run_load_test, bench.settings, "bench", *options)
