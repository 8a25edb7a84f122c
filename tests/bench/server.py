"""A dashboard and an API on the seeded database, as processes."""

import os
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
from orchestrator.settings.gateways import ROLES, SIMULATED
from tests.ports import free_port_base

START_SECONDS = 60.0


@dataclass(frozen=True)
class DashboardProcess:
    """A running dashboard that listens on `port`."""

    port: int
    process: psutil.Process

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    def memory_mb(self) -> float:
        return float(self.process.memory_info().rss / 2**20)


@contextmanager
def running_dashboard(
    settings: Settings, order_database_url: str, reader_url: str, logs: Path
) -> Iterator[DashboardProcess]:
    """Run a dashboard and an API on this database, with the Temporal server of the settings.

    Raises StackError when one of them does not respond.
    """
    api_port = free_port_base()
    dashboard_port = api_port + 1
    environment = {name: value for name, value in os.environ.items() if name != "API_KEY"} | {
        "DATABASE_URL": order_database_url,
        "DATABASE_READER_URL": reader_url,
        "TEMPORAL_ADDRESS": settings.temporal_target,
        **{f"{role.upper()}_GATEWAY": SIMULATED for role in ROLES},
        "BIND_ADDRESS": LOOPBACK,
        "API_URL": f"http://{LOOPBACK}:{api_port}",
        "API_PORT": str(api_port),
        "DASHBOARD_PORT": str(dashboard_port),
        # A task queue serves one order database; the workers of the stack serve another one.
        "ORDER_TASK_QUEUE": "bench-orders",
        "SHIPPING_TASK_QUEUE": "bench-shipping",
        "PAYMENT_GATEWAY": "simulated",
        "WAREHOUSE_GATEWAY": "simulated",
        "CARRIER_GATEWAY": "simulated",
    }
    commands = {
        f"http://{LOOPBACK}:{api_port}/whoami": ["orchestrator", "api"],
        f"http://{LOOPBACK}:{dashboard_port}/_stcore/health": ["dashboard"],
    }
    with ExitStack() as running:
        for url, arguments in commands.items():
            log = logs / f"bench-{arguments[-1]}.log"
            process = running.enter_context(running_process(arguments, environment, url, log))
        yield DashboardProcess(dashboard_port, psutil.Process(process.pid))


@contextmanager
def running_process(
    arguments: list[str], environment: dict[str, str], url: str, log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a Python module with these arguments, from the first response of `url` to the end of the block.

    Raises StackError when it does not respond.
    """
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", *arguments], env=environment, stdout=output, stderr=output
        )
    try:
        _wait_until_ready(url, process, log)
        yield process
    finally:
        _stop(process)


def _wait_until_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    not_after = time.monotonic() + START_SECONDS
    while time.monotonic() < not_after and process.poll() is None:
        try:
            if httpx.get(url, timeout=1.0, trust_env=False).status_code == httpx.codes.OK:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise StackError(f"No response from {url}; see {log}.")


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
