"""The health of each part, from the API's report."""

from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.rest_client import Json


@dataclass(frozen=True)
class Part:
    """`is_well` is None where nobody can tell, because the API does not answer."""

    name: str
    is_well: bool | None
    state: str


def parts_of(report: Json | None, queues_served: Mapping[str, bool]) -> list[Part]:
    """API, PostgreSQL, Temporal and the pollers of each task queue, or of all where they are not told
    apart."""
    if report is None:
        unknown = "unknown while the API is away"
        return [
            Part("API", False, "does not answer"),
            *(Part(name, None, unknown) for name in ("PostgreSQL", "Temporal", "Workers")),
        ]
    parts = [
        Part("API", True, "answers"),
        _part("PostgreSQL", report["database_connected"], "answers", "does not answer"),
        _part("Temporal", report["temporal_connected"], "answers", "does not answer"),
    ]
    queues = queues_served or {"Workers": report["workers_healthy"]}
    parts += [_part(queue, live, "has live pollers", "nobody polls it") for queue, live in queues.items()]
    return parts


def _part(name: str, is_well: bool, well: str, unwell: str) -> Part:
    return Part(name, is_well, well if is_well else unwell)
