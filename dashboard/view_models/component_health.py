"""The health of each component, from the API's health report."""

from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.rest_client import Json


@dataclass(frozen=True)
class ComponentHealth:
    """`is_healthy` is None while the health is unknown."""

    name: str
    is_healthy: bool | None
    status: str


def components(report: Json | None, queues_served: Mapping[str, bool]) -> list[ComponentHealth]:
    """Return API, PostgreSQL, Temporal and the workers of each task queue (or of all, without metrics)."""
    if report is None:
        others = ("PostgreSQL", "Temporal", "Workers")
        return [
            ComponentHealth("API", False, "Not responding"),
            *(ComponentHealth(name, None, "Unknown: the API is not responding") for name in others),
        ]
    queues = queues_served or {"Workers": report["workers_healthy"]}
    return [
        ComponentHealth("API", True, "Up"),
        *(
            ComponentHealth(name, report[key], "Up" if report[key] else "Not responding")
            for name, key in (("PostgreSQL", "database_connected"), ("Temporal", "temporal_connected"))
        ),
        *(
            ComponentHealth(queue, is_served, "Workers connected" if is_served else "No active workers")
            for queue, is_served in queues.items()
        ),
    ]
