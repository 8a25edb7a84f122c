"""The copied checkout as a project of docker compose."""

import base64
import json
import os
import secrets
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.embedded.layout import PROJECT_ROOT
from tests.compose.engine import Engine, ProofError
from tests.deployment import compose

OWNER = 1234
"""The owner of the checkout. No container runs as this user."""

PLANTED_SECRET = "secret-of-the-checkout"
PLANTED_FILES = (
    ".env.local", "orchestrator/.env.production", "orchestrator/deployment/server.pem", "db/client.key",
    "dashboard/credentials.json",
)  # fmt: skip

UP_SECONDS = 300.0


def copy_checkout(target: Path) -> None:
    """Copy all files that are not ignored, readable for their owner only, and files with secrets."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=PROJECT_ROOT, capture_output=True, check=True,
    )  # fmt: skip
    previous = os.umask(0o077)
    try:
        for name in listed.stdout.decode().split("\0"):
            if (PROJECT_ROOT / name).is_file():
                write(target / name, (PROJECT_ROOT / name).read_bytes())
        for name in PLANTED_FILES:
            write(target / name, PLANTED_SECRET.encode())
    finally:
        os.umask(previous)
    for path in (target, *target.rglob("*")):
        os.chown(path, OWNER, OWNER)


def write(file: Path, content: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)


@dataclass(frozen=True)
class Container:
    """One container as `docker inspect` shows it."""

    service: str
    details: dict[str, Any]

    @property
    def id(self) -> str:
        return str(self.details["Id"])

    @property
    def is_running(self) -> bool:
        return bool(self.details["State"]["Running"])

    @property
    def is_healthy(self) -> bool:
        return bool(self.details["State"].get("Health", {}).get("Status") == "healthy")

    @property
    def start(self) -> tuple[str, str]:
        """Id and start time, which change when the container is recreated or restarted."""
        return self.id, str(self.details["State"]["StartedAt"])

    @property
    def addresses(self) -> list[str]:
        networks = self.details["NetworkSettings"]["Networks"].values()
        return [network["IPAddress"] for network in networks if network["IPAddress"]]

    def host_pid(self) -> int:
        """Return a process of the container, numbered as on this machine."""
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if self.id in (process / "cgroup").read_text():
                    return int(process.name)
            except OSError:
                continue
        raise ProofError(f"{self.service} has no process.")


class Project:
    """The services, their `.env`, and the API key of the first user."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        keys = {name: "ord_" + base64.urlsafe_b64encode(secrets.token_bytes(32)).decode().rstrip("=")
                for name in ("API_KEY", "LOAD_TEST_KEY")}  # fmt: skip
        self.settings = {name: secrets.token_hex(24) for name in compose.SECRETS} | keys
        self.settings["ORDERS_RESOURCE_ATTRIBUTES"] = "deployment.environment=proof"
        self._write_settings()

    def set(self, **settings: str) -> None:
        """Change `.env`."""
        self.settings |= settings
        self._write_settings()

    def _write_settings(self) -> None:
        lines = [f"{name}={value}\n" for name, value in self.settings.items()]
        (self.engine.project / ".env").write_text("".join(lines))

    def compose(self, *words: str, check: bool = True, timeout: float = UP_SECONDS, **variables: str) -> str:
        return self.engine.compose(*words, check=check, timeout=timeout, **variables)

    def documented(self, command: str) -> str:
        """Run a command line of the documentation."""
        return self.engine.run("sh", "-euc", command, timeout=UP_SECONDS).stdout

    def up(self) -> None:
        """Start everything and wait until all is healthy."""
        self.compose("up", "--detach", "--wait")
        self.require_healthy()

    def exec(self, service: str, *command: str, timeout: float = 120) -> str:
        """Run a command in a container, with the key of the first user."""
        return self.compose(
            "exec", "--no-TTY", "--env", "API_KEY", service, *command, timeout=timeout,
            API_KEY=self.settings["API_KEY"],
        )  # fmt: skip

    def containers(self) -> list[Container]:
        """Return all containers of the project, running or not."""
        ids = self.engine.docker(
            "ps", "--all", "--quiet", "--no-trunc", "--filter", "label=com.docker.compose.project"
        ).stdout.split()
        if not ids:
            return []
        details = json.loads(self.engine.docker("inspect", *ids).stdout)
        return [Container(each["Config"]["Labels"]["com.docker.compose.service"], each) for each in details]

    def lasting(self) -> list[Container]:
        """Return the containers of services that are not jobs."""
        jobs = {service.name for service in compose.SERVICES.values() if service.is_job}
        return [container for container in self.containers() if container.service not in jobs]

    def require_healthy(self) -> None:
        """Raises ProofError unless every service runs all its containers, and all are healthy."""
        unhealthy = sorted({container.service for container in self.lasting() if not container.is_healthy})
        if unhealthy:
            logs = self.compose("logs", "--no-color", "--tail=20", *unhealthy)
            raise ProofError(f"{', '.join(unhealthy)} not healthy. {logs[-3000:]}")

    def counts(self) -> dict[str, int]:
        """Return the number of running containers per service."""
        running = [container.service for container in self.lasting() if container.is_running]
        return {service: running.count(service) for service in running}
