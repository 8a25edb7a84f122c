"""Measurements under load, taken from the verdicts and reports of load tests."""

import asyncio
import csv

import psutil

from loadtest.bench.harness import Bench, Measurement
from loadtest.proofs.proof import FinishedRun, run_load_test

REQUEST_RATE = 8.0
REQUEST_SECONDS = 60.0


async def promise(bench: Bench, minutes: float = 5.0, rate: float = 10.0) -> list[Measurement]:
    """Measure late and completed orders, and completion times, under the `assignment` faults."""
    run = await _load_test(bench, "start-only", rate, minutes * 60)
    limit, completion_ms = run.report["limit"], run.report["times"]["completion_ms"]
    completed = run.report["outcomes"].get("completed", 0)
    return [
        Measurement(
            f"{rate:g}/s for {minutes:g} min, assignment faults: late",
            f"{limit['late']} of {limit['orders']}",
            "0",
        ),
        Measurement("completed", f"{100 * completed / limit['orders']:.1f} %", "100 %"),
        Measurement("completion p50", f"{completion_ms['p50'] / 1000:.2f} s", "at most 4 s"),
        Measurement("completion p99", f"{completion_ms['p99'] / 1000:.2f} s", "at most 8 s"),
        Measurement("completion max", f"{completion_ms['max'] / 1000:.2f} s", "15 s"),
    ]


async def capacity(bench: Bench, seconds: float = 60.0) -> list[Measurement]:
    """Find the highest rate held for a minute without a late order."""
    rows = []
    held = 0
    for rate in range(12, 31, 2):
        psutil.cpu_percent()
        run = await _load_test(bench, "start-only", rate, seconds)
        limit, completion_ms = run.report["limit"], run.report["times"]["completion_ms"]
        rows.append(
            Measurement(
                f"{rate}/s for {seconds:g} s, assignment faults",
                f"{limit['late']} late of {limit['orders']}, p50 {completion_ms['p50'] / 1000:.2f} s, "
                f"p99 {completion_ms['p99'] / 1000:.2f} s, CPU {psutil.cpu_percent():.0f} %",
            )
        )
        if limit["late"] or run.report["outcomes"].get("completed", 0) < limit["orders"]:
            break
        held = rate
    return [*rows, Measurement("highest rate held with 0 late", f"{held}/s", "at least 14/s")]


async def request_latency(bench: Bench) -> list[Measurement]:
    """Measure the response times of cancellations and address changes under faults."""
    rows = []
    for name, scenario in (("cancel", "cancel-storm"), ("address", "address-churn")):
        run = await _load_test(bench, scenario, REQUEST_RATE, REQUEST_SECONDS)
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


async def _load_test(bench: Bench, scenario: str, rate: float, seconds: float) -> FinishedRun:
    options = f"--scenario={scenario}", f"--rate={rate:g}", f"--duration={seconds:g}s", "--faults=assignment"
    return await asyncio.to_thread(run_load_test, bench.settings, "bench", *options)
