"""A dashboard of its own before the seeded database, with an API beside it, as processes of their own."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from orchestrator.errors import StackError
from orchestrator.settings import LOOPBACK, Settings

START_SECONDS = 60.0


@dataclass(frozen=True)
class Server:
    """A dashboard that serves on `port`."""

    port: int
    process: psutil.Process

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    def memory_mb(self) -> float:
        return float(self.process.memory_info().rss / 2**20)


@contextmanager
def serving(settings: Settings, order_database_url: str, reader_url: str, logs: Path) -> Iterator[Server]:
    """A dashboard and an API that use these books; Temporal is that of the settings. Raises StackError when
    one of them does not answer."""
    api_port, dashboard_port = _free_ports(2)
    environment = {name: value for name, value in os.environ.items() if name != "API_KEY"} | {
        "DATABASE_URL": order_database_url,
        "DATABASE_READER_URL": reader_url,
        "TEMPORAL_ADDRESS": settings.temporal_target,
        "BIND_ADDRESS": LOOPBACK,
        "API_URL": f"http://{LOOPBACK}:{api_port}",
        "API_PORT": str(api_port),
        "DASHBOARD_PORT": str(dashboard_port),
    }
    commands = {
        f"http://{LOOPBACK}:{api_port}/whoami": ["orchestrator", "api"],
        f"http://{LOOPBACK}:{dashboard_port}/_stcore/health": ["dashboard"],
    }
    with ExitStack() as running:
        for url, words in commands.items():
            log = running.enter_context((logs / f"bench-{words[-1]}.log").open("wb"))
            process = subprocess.Popen(
                [sys.executable, "-m", *words], env=environment, stdout=log, stderr=log
            )
            running.callback(_end, process)
            _await_answer(url, process)
        yield Server(dashboard_port, psutil.Process(process.pid))


def _await_answer(url: str, process: subprocess.Popen[bytes]) -> None:
    not_after = time.monotonic() + START_SECONDS
    while time.monotonic() < not_after and process.poll() is None:
        try:
            if httpx.get(url, timeout=1.0, trust_env=False).status_code == httpx.codes.OK:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise StackError(f"nothing answers at {url}; see the bench's logs below ORDERS_HOME")


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _free_ports(count: int) -> list[int]:
    with ExitStack() as held:
        probes = [held.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind((LOOPBACK, 0))
        return [probe.getsockname()[1] for probe in probes]
