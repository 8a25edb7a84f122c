"""The health of each component, from the API's health report and the processes of the local stack."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from orchestrator.rest_client import Json


class LocalProcess(NamedTuple):
    """`state` is that of supervisord, in lower case, or "paused"; `restarts` counts since `orders up`."""

    name: str
    state: str
    started_at: datetime
    restarts: int


class ComponentHealth(NamedTuple):
    """`is_healthy` is None while the health is unknown. `age` and `restarts` are those of a local process,
    None for others."""

    name: str
    is_healthy: bool | None
    status: str
    age: timedelta | None = None
    restarts: int | None = None


_COMPONENTS = (
    ("PostgreSQL", "database_connected", "Up", "Not responding"),
    ("Temporal", "temporal_connected", "Up", "Not responding"),
    ("Workers", "workers_healthy", "Workers connected", "No active workers"),
)
_PROCESS_OF = {"API": "api", "PostgreSQL": "postgres", "Temporal": "temporal"}


def components(
    report: Json | None, processes: Sequence[LocalProcess], now: datetime
) -> list[ComponentHealth]:
    """Return the health of each component of the report, then the other local processes.

    `report` is None if the API is not responding.
    """
    by_name = {each.name: each for each in processes}
    found = []
    for health in _from_report(report):
        process = by_name.pop(_PROCESS_OF.get(health.name, ""), None)
        found.append(health if process is None else _with_process(health, process, now))
    return [*found, *(_of_process(each, now) for each in by_name.values())]


def _from_report(report: Json | None) -> list[ComponentHealth]:
    if report is None:
        unknown = "Unknown: the API is not responding"
        others = [ComponentHealth(name, None, unknown) for name, *_ in _COMPONENTS]
        return [ComponentHealth("API", False, "Not responding"), *others]
    others = [
        ComponentHealth(name, report[key], healthy if report[key] else unhealthy)
        for name, key, healthy, unhealthy in _COMPONENTS
    ]
    return [ComponentHealth("API", True, "Up"), *others]


def _with_process(health: ComponentHealth, process: LocalProcess, now: datetime) -> ComponentHealth:
    return health._replace(age=_age(process, now), restarts=process.restarts)


def _of_process(process: LocalProcess, now: datetime) -> ComponentHealth:
    is_running = process.state == "running"
    status = "Up" if is_running else process.state.capitalize()
    return ComponentHealth(process.name, is_running, status, _age(process, now), process.restarts)


def _age(process: LocalProcess, now: datetime) -> timedelta | None:
    is_alive = process.state in ("running", "paused", "starting", "stopping")
    return max(now - process.started_at, timedelta(0)) if is_alive else None


def age_text(age: timedelta | None) -> str:
    """Format an age in its largest whole unit, for example "12 s", "3 min", "2 h" or "5 d"."""
    if age is None:
        return "–"
    seconds = int(age.total_seconds())
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length}\u00a0{unit}"
    return f"{seconds}\u00a0s"
