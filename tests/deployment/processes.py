"""Runs the services of docker-compose.yml as processes: same commands, variables and health checks."""

import compileall
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.embedded import postgres
from orchestrator.embedded.layout import PROJECT_ROOT, packaged_program
from tests.deployment import compose
from tests.deployment.compose import Service
from tests.live import eventually

HEALTHY_SECONDS = 60.0


@dataclass(frozen=True)
class Ports:
    """Ports on 127.0.0.1 that replace the names and ports of containers."""

    postgres: int
    temporal: int
    api: int
    dashboard: int
    locust: int
    locust_workers: int
    temporal_ui: int
    temporal_http: int
    temporal_metrics: int


@dataclass
class Container:
    """A running service."""

    service: Service
    process: subprocess.Popen[bytes]
    environment: dict[str, str]
    health_check: list[str]
    app: Path
    log: Path

    def is_healthy(self) -> bool:
        assert self.process.poll() is None, f"{self.service.name} has exited:\n{self.log.read_text()}"
        return _run(self.health_check, self.environment, cwd=self.app).returncode == 0

    def wait_until_healthy(self) -> None:
        eventually(self.is_healthy, HEALTHY_SECONDS)

    def pause(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def stop(self) -> int:
        """Send SIGTERM, wait for the grace period of the file, and return the exit code."""
        self.process.terminate()
        return self.process.wait(self.service.stop_seconds)


@dataclass
class Host:
    """Runs services in directories below `home`; `app` reports the /app of the image."""

    home: Path
    ports: Ports
    services: dict[str, Service] = field(default_factory=compose.services)
    running: list[Container] = field(default_factory=list)
    image_files: set[Path] = field(default_factory=set)
    secrets: dict[str, str] = field(default_factory=lambda: compose.SECRETS)

    @property
    def app(self) -> Path:
        return self.home / "app"

    def make_image(self) -> None:
        """Copy and compile the files that the Dockerfile copies."""
        for folder in compose.image_folders():
            shutil.copytree(
                PROJECT_ROOT / folder, self.app / folder, ignore=shutil.ignore_patterns("__pycache__", ".env")
            )
        compileall.compile_dir(str(self.app), quiet=1)
        self.image_files = self.files_of_image()

    def files_of_image(self) -> set[Path]:
        return {file for file in self.app.rglob("*") if file.is_file()}

    @property
    def reports(self) -> Path:
        """The volume of the load tests."""
        return self.home / "reports"

    def in_order_of_start(self) -> list[Service]:
        """Return our services except jobs."""
        ordered = compose.in_order_of_start(self.services)
        return [service for service in ordered if service.is_ours and not service.is_job]

    def run(self, name: str, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a job, or another command in the environment of a service, until it ends."""
        service = self.services[name]
        directory = self._directory(name)
        words = [self._translate(word, service, directory) for word in command or service.command]
        return _run(_with_path(words), self.environment(service, directory) | variables, cwd=self.app)

    def start(self, name: str, replica: int = 1) -> Container:
        service = self.services[name]
        directory = self._directory(f"{name}-{replica}")
        environment = self.environment(service, directory)
        command = [self._translate(word, service, directory) for word in service.command]
        log = directory / "log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                _with_path(command), env=environment, cwd=self.app, stdout=output, stderr=output
            )
        check = _with_path([self._translate(word, service, directory) for word in service.health_check])
        container = Container(service, process, environment, check, self.app, log)
        self.running.append(container)
        return container

    def environment(self, service: Service, directory: Path) -> dict[str, str]:
        """Return the variables of the service and the image, with our ports."""
        ports = self.ports
        of_image = compose.image_environment() if service.is_ours else {}
        variables = {
            name: self._translate(value, service, directory)
            for name, value in (of_image | service.environment).items()
        }
        variables |= {
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.defpath]),
            "PYTHONPATH": str(self.app),
        }
        if "PGHOST" in variables:
            variables |= {"PGHOST": "127.0.0.1", "PGPORT": str(ports.postgres)}
        # Only for the service that listens on the port: other services use these variables for links.
        listening = {
            "api": {"API_PORT": ports.api},
            "dashboard": {"DASHBOARD_PORT": ports.dashboard},
            "locust-master": {"LOCUST_PORT": ports.locust, "LOCUST_MASTER_BIND_PORT": ports.locust_workers},
            "locust-worker": {"LOCUST_MASTER_NODE_PORT": ports.locust_workers},
            # Replicas share this machine's ports, so the system assigns them.
            "order-worker": {"WORKER_METRICS_PORT": 0},
            "shipping-worker": {"WORKER_METRICS_PORT": 0},
        }
        return variables | {name: str(port) for name, port in listening.get(service.name, {}).items()}

    def stop_all(self) -> None:
        """Kill all running services."""
        for container in self.running:
            if container.process.poll() is None:
                container.process.kill()
                container.process.wait()

    def _directory(self, name: str) -> Path:
        directory = self.home / name
        (directory / "tmp").mkdir(parents=True, exist_ok=True)
        return directory

    def _translate(self, text: str, service: Service, directory: Path) -> str:
        """Replace the names, ports and paths of containers."""
        ports = self.ports
        for pattern, replacement in (
            (r"\bpostgres:5432\b", f"127.0.0.1:{ports.postgres}"),
            (r"\btemporal:7233\b", f"127.0.0.1:{ports.temporal}"),
            (r"\b(api|127\.0\.0\.1):8000\b", f"127.0.0.1:{ports.api}"),
            (r"\b127\.0\.0\.1:8501\b", f"127.0.0.1:{ports.dashboard}"),
            (r"\b127\.0\.0\.1:8089\b", f"127.0.0.1:{ports.locust}"),
            (r"^locust-master$", "127.0.0.1"),
            (r"^0\.0\.0\.0$", "127.0.0.1"),
            (r"^/tmp\b", str(directory / "tmp")),
            (r"^/var/lib/orders\b", str(self.reports)),
        ):
            text = re.sub(pattern, replacement, text)
        if text.startswith("/configuration/"):
            return str(compose.file_of_volume(service, text))
        return text


def _with_path(command: list[str]) -> list[str]:
    """Return the command with the absolute path of its program."""
    program, *words = command
    known = {
        "python": sys.executable,
        "psql": str(postgres.programs() / "psql"),
        "sh": "/bin/sh",
        "temporal": packaged_program("temporal"),
    }
    return [known[program], *words]


def _run(
    command: list[str], environment: dict[str, str], cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        env=environment,
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
    )
