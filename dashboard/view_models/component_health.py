"""The health of each component, from the API's health report."""

from typing import NamedTuple

from orchestrator.rest_client import Json


class ComponentHealth(NamedTuple):
    """`is_healthy` is None while the health is unknown."""

    name: str
    is_healthy: bool | None
    status: str


_COMPONENTS = (
    ("PostgreSQL", "database_connected", "Up", "Not responding"),
    ("Temporal", "temporal_connected", "Up", "Not responding"),
    ("Workers", "workers_healthy", "Workers connected", "No active workers"),
)


def components(report: Json | None) -> list[ComponentHealth]:
    """Return the health of each component. `report` is None if the API is not responding."""
    if report is None:
        unknown = "Unknown: the API is not responding"
        others = [ComponentHealth(name, None, unknown) for name, *_ in _COMPONENTS]
        return [ComponentHealth("API", False, "Not responding"), *others]
    others = [
        ComponentHealth(name, report[key], healthy if report[key] else unhealthy)
        for name, key, healthy, unhealthy in _COMPONENTS
    ]
    return [ComponentHealth("API", True, "Up"), *others]
