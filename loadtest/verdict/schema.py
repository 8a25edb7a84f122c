"""Version of the JSON of a verdict, in `verdict.json` and in the table `runs`."""

from collections.abc import Mapping
from typing import Any

SCHEMA_VERSION = 2
"""Version 1 has no field `schema_version`. It is still shown."""


def schema_problem(report: Mapping[str, Any]) -> str | None:
    """Return one sentence if a newer version of the software wrote this verdict, else None."""
    version = report.get("schema_version", 1)
    if isinstance(version, int) and version <= SCHEMA_VERSION:
        return None
    return (
        f"Run {report.get('run_id')} was stored by a newer version of this software: its verdict has schema "
        f"{version}, and this version reads up to {SCHEMA_VERSION}. Upgrade to read it."
    )
