"""Runs whole load tests as processes against the fake API, and reads their results."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from db import runs
from orchestrator.rest_client import Json
from tests import secrets
from tests.load.fake_api import Behaviour

ROOT = Path(__file__).resolve().parents[2]
RUN_ID = "the-run"
MODES = ("local", "processes", "distributed")


@dataclass(frozen=True)
class FakeApiProcess:
    url: str
    process: subprocess.Popen[str]

    def truth(self) -> Json:
        with urllib.request.urlopen(f"{self.url}/truth") as response:
            truth: Json = json.load(response)
        return truth

    def put(self, name: str, body: Json) -> None:
        """Change the behaviour or the fault profile."""
        request = urllib.request.Request(
            f"{self.url}/{name}",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
            method="PUT",
        )
        urllib.request.urlopen(request).close()

    def true_completion_ms(self) -> list[int]:
        return sorted(round(order["completion_ms"]) for order in self.truth()["orders"].values())


@contextmanager
def fake_api(behaviour: Behaviour | None = None) -> Iterator[FakeApiProcess]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.load.fake_api", "0", json.dumps(vars(behaviour or Behaviour()))],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        port = process.stdout.readline().split()[0]
        yield FakeApiProcess(f"http://127.0.0.1:{port}", process)
    finally:
        process.kill()
        process.communicate()


@dataclass(frozen=True)
class Finished:
    """A run that has ended. `report` is its verdict.json, empty if there is none."""

    code: int
    output: str
    report: Json
    directory: Path

    @property
    def run(self) -> Json:
        run: Json = self.report["run"]
        return run

    @property
    def locust_rows(self) -> dict[str, dict[str, str]]:
        """The rows of Locust's statistics by name."""
        text = (self.directory / "locust_stats.csv").read_text()
        return {row["Name"]: row for row in csv.DictReader(text.splitlines())}

    @property
    def limit(self) -> Json:
        limit: Json = self.report["limit"]
        return limit


PROGRAM = ("-m", "tests.load.tolerant")
LOCUSTFILE = "tests/load/tolerant_locustfile.py"


class LoadTest:
    """Starts runs that share one ORDERS_HOME and one database."""

    def __init__(self, home: Path, order_database_url: str, port_base: int) -> None:
        self.home = home
        self.order_database_url = order_database_url
        self.port_base = port_base
        self.environment = os.environ | {
            "ORDERS_HOME": str(home),
            "DATABASE_URL": order_database_url,
            "PORT_BASE": str(port_base),
            "PYTHONUNBUFFERED": "1",
            "API_KEY": secrets.API_KEY,
        }

    def run(self, api: FakeApiProcess, *options: str, mode: str = "local", run_id: str = RUN_ID) -> Finished:
        with self.started(api, *options, mode=mode, run_id=run_id) as process:
            return self.finished(process, run_id)

    def finished(
        self, process: subprocess.Popen[str], run_id: str = RUN_ID, timeout: float = 120
    ) -> Finished:
        output, _ = process.communicate(timeout=timeout)
        directory = self.home / "reports" / run_id
        file = directory / "verdict.json"
        return Finished(
            process.returncode, output, json.loads(file.read_text()) if file.exists() else {}, directory
        )

    @contextmanager
    def started(
        self, api: FakeApiProcess, *options: str, mode: str = "local", run_id: str = RUN_ID
    ) -> Iterator[subprocess.Popen[str]]:
        """Start a run; in distributed mode with two workers."""
        command = ["run", f"--host={api.url}", f"--run-id={run_id}", *options]
        port = self.port_base + 9
        workers = []
        if mode == "processes":
            command.append("--processes=2")
        elif mode == "distributed":
            command += ["--master", "--expect-workers=2", f"--master-port={port}"]
            workers = [
                self.start("run", "--worker", f"--master-port={port}", f"--host={api.url}") for _ in range(2)
            ]
        process = self.start(*command)
        try:
            yield process
        finally:
            for each in (process, *workers):
                end(each)

    def start(self, *options: str, program: tuple[str, ...] = PROGRAM) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, *program, *options],
            cwd=ROOT,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            # Its own process group, as a shell creates it for a command.
            start_new_session=True,
        )

    def stored(self, run_id: str = RUN_ID) -> runs.StoredRun | None:
        return runs.find(self.order_database_url, run_id)


def interrupt(process: subprocess.Popen[str]) -> None:
    """Send SIGINT to all processes of the command, as Ctrl-C in a terminal does."""
    os.killpg(process.pid, signal.SIGINT)


def end(process: subprocess.Popen[str]) -> None:
    """Kill all processes of the command."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def wait_for(condition: Callable[[], object], seconds: float = 40) -> None:
    not_after = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < not_after, "the condition was not met in time"
        time.sleep(0.05)


def wait_for_line(process: subprocess.Popen[str], *, containing: str, seconds: float = 40) -> str:
    """Read the output of a run up to a line that contains a text, and return that line."""
    assert process.stdout is not None
    not_after = time.monotonic() + seconds
    for line in process.stdout:
        secrets.record("output of a process", line)
        if containing in line:
            return line
        if time.monotonic() > not_after:
            break
    raise AssertionError(f"no line with {containing!r}")


def unwrapped(output: str) -> str:
    """Return the text of a panel without the line breaks of the terminal's width."""
    return " ".join(output.replace("│", " ").split())
