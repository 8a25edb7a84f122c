"""Where a run takes place: the commit, the machine, the fault profile in force."""

import os
import platform
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from loadtest.options import RunOptions
from orchestrator.errors import ServiceUnavailable, UsageError
from orchestrator.security.key_hashing import Role

# Not loaded for commands that generate nothing: it brings Locust, which patches the whole process.
if TYPE_CHECKING:
    from loadtest.generator.api_client import ApiClient
    from orchestrator.rest_client import Json

ROOT = Path(__file__).resolve().parents[1]


def commit() -> str | None:
    """The commit of this checkout, with `+changes` when files differ from it; None outside a checkout."""
    try:
        told = subprocess.run(
            ["git", "describe", "--always", "--abbrev=12", "--dirty=+changes"],
            cwd=ROOT, capture_output=True, text=True, check=True, timeout=5,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return told.stdout.strip() or None


def machine() -> dict[str, Any]:
    """What the figures depend on; no names or addresses."""
    return {
        "cpus": os.cpu_count(),
        "memory_mb": psutil.virtual_memory().total // 2**20,
        "system": f"{platform.system()} {platform.release()}",
        "architecture": platform.machine(),
        "python": platform.python_version(),
    }


def check_api(api: "ApiClient", url: str) -> None:
    """Raises UsageError with one sentence unless the whole order system behind the API is healthy."""
    try:
        answer = api.get("/health", "health")
    except ServiceUnavailable:
        raise UsageError(f"no API answers at {url}; start the stack with `make up`") from None
    if not answer.is_ok:
        parts = ("temporal_connected", "database_connected", "workers_healthy")
        missing = ", ".join(part.split("_")[0] for part in parts if not answer.body.get(part, True))
        raise UsageError(f"the order system at {url} is not healthy ({missing or answer.status})")


def check_role(role: Role | None, options: RunOptions) -> None:
    """Raises UsageError unless the role of API_KEY (None: not a valid key) allows the run.

    Disturbances need the role although the run makes them itself, without the API.
    """
    if role is None:
        raise UsageError("the API rejected API_KEY: the key is missing or invalid")
    needed = options.required_role
    if role < needed:
        raise UsageError(f"this run needs a key of role {needed.word}; API_KEY has role {role.word}")


class Faults:
    """The fault profile of a run: set at its start, and put back at its end."""

    def __init__(self, api: "ApiClient") -> None:
        self._api = api
        self._before: Json | None = None
        self.since: str | None = None
        """When the run set its profile, as the API tells it; None if it sets none."""

        self.profile: str | None = None
        self.seed: int | None = None

    def in_force(self) -> "Json":
        """The profile in force. Raises UsageError when the API does not tell it, ServiceUnavailable when it does not
        answer."""
        answer = self._api.get("/faults", "faults")
        if not answer.is_ok:
            raise UsageError(f"the API does not tell its fault profile: it answered {answer.status}")
        return answer.body

    def begin(self, options: RunOptions) -> None:
        """Raises UsageError when the API does not take the profile, ServiceUnavailable when it does not answer."""
        in_force = self.in_force()
        if options.faults is None:
            self.profile, self.seed = in_force.get("profile"), in_force.get("seed")
            return
        self._before = in_force
        self.since = self._put({"profile": options.faults, "seed": options.seed})
        self.profile, self.seed = options.faults, options.seed

    def put_back(self) -> None:
        """Restores what was in force before the run, unless somebody has changed the profile meanwhile: then
        that is what shall be. Raises ServiceUnavailable or UsageError when it cannot."""
        if self._before is None:
            return
        # Nobody knows since when it is in force if the answer to setting it was lost.
        if self.since is not None and self.in_force()["since"] != self.since:
            self._before = None
            return
        before = {"profile": self._before["profile"], "seed": self._before["seed"]}
        if before["profile"] == "custom":
            before["rates"] = self._before["rates"]
        self._put(before)
        self._before = None

    def _put(self, profile: "Json") -> str:
        """Returns since when it has been in force, which no other change has in common with it."""
        answer = self._api.call("PUT", "/faults", profile, "faults")
        if not answer.is_ok:
            raise UsageError(f"the API refused the fault profile: {answer.body.get('detail', answer.status)}")
        return str(answer.body["since"])
