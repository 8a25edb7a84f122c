"""The five promises of the system as lights, each with its figure."""

from dataclasses import dataclass

from dashboard.data.api_metrics import ApiSpeed
from dashboard.data.worker_usage import WorkerUse
from db.read_models.live_orders import InFlight, RecentOutcomes

API_LIMIT_MS = 1_000
QUERY_LIMIT_MS = 100
CPU_LIMIT = 0.8
MEMORY_LIMIT_BYTES = 2 * 1024**3


@dataclass(frozen=True)
class Light:
    """`is_kept` is None while there is nothing to judge by."""

    name: str
    target: str
    figure: str
    is_kept: bool | None


def completion_light(lately: RecentOutcomes, in_flight: InFlight, limit_seconds: float) -> Light:
    """By the orders that finished late in the window, and those that are late already."""
    late = lately.late + in_flight.overdue
    seen = lately.finished + in_flight.overdue
    worst = "" if lately.max_ms is None else f", longest {seconds(lately.max_ms)}"
    return Light(
        "Completion",
        f"≤ {limit_seconds:g} s",
        f"{late:,} late of {seen:,}{worst}" if seen else "no order yet",
        late == 0 if seen else None,
    )


def unknown_completion_light(limit_seconds: float) -> Light:
    """While nobody can say: the books do not answer."""
    return Light("Completion", f"≤ {limit_seconds:g} s", "unknown, the database does not answer", None)


def api_light(speed: ApiSpeed | None) -> Light:
    """None: the API does not answer."""
    if speed is None:
        return Light("API", "≤ 1 s", "does not answer", False)
    if speed.p99_below_ms is None:
        return Light("API", "≤ 1 s", "no request yet", None)
    return Light(
        "API",
        "≤ 1 s",
        f"99 % {_below(speed.p99_below_ms)}, {speed.slow:,} of {speed.requests:,} over 1 s",
        speed.p99_below_ms <= API_LIMIT_MS,
    )


def query_light(times_ms: list[float], has_last_failed: bool) -> Light:
    """By the 95th percentile of these readings, in ms, and whether the newest of them failed."""
    p95 = percentile(times_ms, 0.95)
    if p95 is None:
        return Light("Database query", "≤ 100 ms", "no query yet", None)
    if has_last_failed:
        return Light("Database query", "≤ 100 ms", f"the last one failed after {times_ms[-1]:,.0f} ms", False)
    return Light(
        "Database query",
        "≤ 100 ms",
        f"95 % within {p95:.1f} ms, longest {max(times_ms):.0f} ms",
        p95 <= QUERY_LIMIT_MS,
    )


def cpu_light(workers: list[WorkerUse]) -> Light:
    if not workers:
        return Light("Worker CPU", "≤ 80 %", "no worker on this machine", None)
    busiest = max(workers, key=lambda worker: worker.cpu)
    return Light(
        "Worker CPU",
        "≤ 80 %",
        f"{100 * busiest.cpu:.0f} % of a core, {busiest.name}",
        busiest.cpu <= CPU_LIMIT,
    )


def memory_light(workers: list[WorkerUse]) -> Light:
    if not workers:
        return Light("Worker memory", "≤ 2 GB", "no worker on this machine", None)
    largest = max(workers, key=lambda worker: worker.memory_bytes)
    used = f"{largest.memory_bytes / 1024**2:,.0f} MB, {largest.name}"
    return Light("Worker memory", "≤ 2 GB", used, largest.memory_bytes <= MEMORY_LIMIT_BYTES)


def percentile(values: list[float], share: float) -> float | None:
    """The smallest value that at least `share` of them do not exceed; None without values."""
    if not values:
        return None
    ordered = sorted(values)
    needed = share * len(ordered)
    return next(value for n, value in enumerate(ordered, start=1) if n >= needed)


def seconds(ms: float | None) -> str:
    """Milliseconds as seconds with every millisecond, or a dash."""
    return "–" if ms is None else f"{ms / 1000:,.3f} s"


def _below(ms: float) -> str:
    return "over 60 s" if ms == float("inf") else f"within {ms:g} ms"
