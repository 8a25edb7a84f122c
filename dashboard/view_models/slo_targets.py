"""The five service level objectives (SLO) of the system, each with its current value."""

from dataclasses import dataclass

from dashboard.data.api_metrics import ApiSpeed
from dashboard.data.worker_usage import WorkerUsage
from db.read_models.live_orders import InFlight, RecentOutcomes

API_LIMIT_MS = 1_000
QUERY_LIMIT_MS = 100
CPU_LIMIT = 0.8
MEMORY_LIMIT_BYTES = 2 * 1024**3

_NO_WORKER = "no worker on this machine"


@dataclass(frozen=True)
class SloStatus:
    """`is_met` is None without data."""

    name: str
    target: str
    value: str
    is_met: bool | None


def completion_status(recent: RecentOutcomes, in_flight: InFlight, limit_seconds: float) -> SloStatus:
    """Count the orders that finished late and the orders in flight past their deadline."""
    late, orders = recent.late + in_flight.overdue, recent.finished + in_flight.overdue
    longest = "" if recent.max_ms is None else f", longest {seconds(recent.max_ms)}"
    value = f"{late:,} late of {orders:,}{longest}" if orders else "no orders"
    return SloStatus("Completion", f"≤ {limit_seconds:g} s", value, late == 0 if orders else None)


def unknown_completion_status(limit_seconds: float) -> SloStatus:
    return SloStatus("Completion", f"≤ {limit_seconds:g} s", "unknown: the database is not responding", None)


def api_status(speed: ApiSpeed | None) -> SloStatus:
    """None: the API is not responding."""
    if speed is None:
        return SloStatus("API", "≤ 1 s", "not responding", False)
    if speed.p99_below_ms is None:
        return SloStatus("API", "≤ 1 s", "no requests", None)
    p99 = "over 60 s" if speed.p99_below_ms == float("inf") else f"≤ {speed.p99_below_ms:g} ms"
    value = f"p99 {p99}, {speed.slow:,} of {speed.requests:,} over 1 s"
    return SloStatus("API", "≤ 1 s", value, speed.p99_below_ms <= API_LIMIT_MS)


def query_status(times_ms: list[float], has_last_failed: bool) -> SloStatus:
    """Judge the 95th percentile of the dashboard's latest queries, in ms, and whether the last one failed."""
    p95 = percentile(times_ms, 0.95)
    if p95 is None:
        return SloStatus("Database query", "≤ 100 ms", "no queries", None)
    if has_last_failed:
        return SloStatus(
            "Database query", "≤ 100 ms", f"last query failed after {times_ms[-1]:,.0f} ms", False
        )
    value = f"p95 {p95:.1f} ms, longest {max(times_ms):.0f} ms"
    return SloStatus("Database query", "≤ 100 ms", value, p95 <= QUERY_LIMIT_MS)


def cpu_status(workers: list[WorkerUsage]) -> SloStatus:
    busiest = max(workers, key=lambda worker: worker.cpu, default=None)
    if busiest is None:
        return SloStatus("Worker CPU", "≤ 80 %", _NO_WORKER, None)
    value = f"{100 * busiest.cpu:.0f} % of a core, {busiest.name}"
    return SloStatus("Worker CPU", "≤ 80 %", value, busiest.cpu <= CPU_LIMIT)


def memory_status(workers: list[WorkerUsage]) -> SloStatus:
    largest = max(workers, key=lambda worker: worker.memory_bytes, default=None)
    if largest is None:
        return SloStatus("Worker memory", "≤ 2 GB", _NO_WORKER, None)
    value = f"{largest.memory_bytes / 1024**2:,.0f} MB, {largest.name}"
    return SloStatus("Worker memory", "≤ 2 GB", value, largest.memory_bytes <= MEMORY_LIMIT_BYTES)


def percentile(values: list[float], share: float) -> float | None:
    """Return the smallest value that at least `share` of the values do not exceed."""
    ordered = sorted(values)
    return next((value for n, value in enumerate(ordered, start=1) if n >= share * len(ordered)), None)


def seconds(ms: float | None) -> str:
    """Format milliseconds as seconds with three decimals; None as a dash."""
    return "–" if ms is None else f"{ms / 1000:,.3f} s"
