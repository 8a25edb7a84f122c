"""Versions of the JSON of a verdict, in `verdict.json` and in the table `runs`."""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

SCHEMA_VERSION = 2

_RENAMED = (
    ((), "books", "database"),
    (("database",), "judged", "finished"),
    (("run",), "shed", "rejected"),
    (("run",), "held_share", "on_time_share"),
    (("comparison",), "with", "baseline"),
    (("comparison",), "differences", "setup_differences"),
)
"""Path, name in version 1 and name in version 2. Version 1 has no field `schema_version`."""


def schema_problem(report: Mapping[str, Any]) -> str | None:
    """Return one sentence if a newer version of the software wrote this verdict, else None."""
    version = report.get("schema_version", 1)
    if isinstance(version, int) and version <= SCHEMA_VERSION:
        return None
    return (
        f"Run {report.get('run_id')} was stored by a newer version of this software: its verdict has schema "
        f"{version}, and this version reads up to {SCHEMA_VERSION}. Upgrade to read it."
    )


def upgraded(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return a verdict in the current schema."""
    if "schema_version" in report:
        return dict(report)
    current = deepcopy(dict(report))
    for path, before, after in _RENAMED:
        section = current
        for name in path:
            section = section.get(name) or {}
        if before in section:
            section[after] = section.pop(before)
    return current
