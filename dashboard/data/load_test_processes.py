"""Starts load tests as separate processes, and finds them by the run id in their command line.

A run continues when its browser tab is closed or the dashboard restarts.
"""

import os
import subprocess
import sys
from collections import deque
from pathlib import Path
from threading import Lock
from time import monotonic
from typing import Any, BinaryIO

import psutil

from loadtest.options import RunOptions, command_line
from orchestrator.errors import OrderSystemError, UsageError
from orchestrator.settings import Settings

PROJECT_ROOT = Path(__file__).parents[2]
SCAN_SECONDS = 1.0
REPORTS = (
    "report.html", "verdict.json", "summary.md", "junit.xml", "orders.csv",
    "locust.html", "locust_stats.csv", "locust_failures.csv", "locust_exceptions.csv",
)  # fmt: skip
"""The files of a finished run that the page offers for download."""

_RUN_ID = "--run-id="
_PLAIN_OUTPUT = {"NO_COLOR": "1", "COLUMNS": "110"}


class LoadTestProcesses:
    """The load tests of one ORDERS_HOME."""

    def __init__(self, settings: Settings) -> None:
        self._home = settings.home
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._running: list[str] = []
        self._scanned_at = float("-inf")
        self._starting = Lock()

    def start(self, given: dict[str, Any], api_key: str | None = None) -> str:
        """Start `python -m loadtest run` with these options and API key; return the run id.

        Raises UsageError if an option is invalid, another run is in progress, or the log cannot be written.
        """
        # Two users, or a double click, call this in two threads.
        with self._starting:
            return self._start(given, api_key)

    def _start(self, given: dict[str, Any], api_key: str | None) -> str:
        if running := sorted(_find(self._home)):
            raise UsageError(f"run {running[0]} is in progress; wait for its verdict or stop it")
        options = RunOptions.parse(given)
        arguments = command_line(given | {"run_id": options.run_id})
        with _open_log(self._log(options.run_id)) as log:
            self._children[options.run_id] = subprocess.Popen(
                [sys.executable, "-m", "loadtest", "run", *arguments],
                cwd=PROJECT_ROOT,
                # Override the dashboard's API_KEY, so that the run has the rights of the user.
                env=os.environ | {"ORDERS_HOME": str(self._home), "API_KEY": api_key or "", **_PLAIN_OUTPUT},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._scanned_at = float("-inf")
        return options.run_id

    def running(self) -> list[str]:
        """Return the ids of running load tests, including those that another process started.

        Scans the process list at most once per SCAN_SECONDS, because every browser session calls this.
        """
        if monotonic() - self._scanned_at > SCAN_SECONDS:
            for child in self._children.values():
                # Reap ended children, which would otherwise remain as zombies.
                child.poll()
            self._running = sorted(_find(self._home))
            self._scanned_at = monotonic()
        return list(self._running)

    def stop(self, run_id: str) -> None:
        """Send SIGTERM to a run, which then drains and reports its verdict.

        Not SIGINT: if two users stop the run, the second SIGINT ends it without a verdict. Raises
        OrderSystemError if the run has ended.
        """
        process = _find(self._home).get(run_id)
        if process is None:
            raise OrderSystemError("The run has already ended.")
        process.terminate()

    def output(self, run_id: str, lines: int = 25) -> str:
        """Return the last lines of a run's log; "" if this dashboard has no log of the run."""
        try:
            with self._log(run_id).open(errors="replace") as log:
                return "".join(deque(log, maxlen=lines)).strip()
        except OSError:
            return ""

    def exit_code(self, run_id: str) -> int | None:
        """Return the exit code of a run that this process started; None while it runs or for other runs."""
        child = self._children.get(run_id)
        return None if child is None else child.poll()

    def reports(self, run_id: str) -> list[Path]:
        """Return the existing report files of a run."""
        directory = self._home / "reports" / run_id
        return [directory / name for name in REPORTS if (directory / name).is_file()]

    def _log(self, run_id: str) -> Path:
        return self._home / "logs" / f"loadtest-{run_id}.log"


def _open_log(path: Path) -> BinaryIO:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("wb")
    except OSError as error:
        raise UsageError(
            f"this dashboard cannot start load tests, because it cannot write to disk ({error.strerror}); "
            "use the Locust web UI"
        ) from error


def _find(home: Path) -> dict[str, psutil.Process]:
    """Return the running load tests of this ORDERS_HOME by run id.

    A run with several processes is represented by the one with the lowest pid, usually its first.
    """
    found: dict[str, psutil.Process] = {}
    for process in sorted(psutil.process_iter(), key=lambda each: each.pid):
        try:
            arguments = process.cmdline()
            run_id = _run_id(arguments)
            if run_id is None or process.status() == psutil.STATUS_ZOMBIE:
                continue
            process_home = Path(process.environ().get("ORDERS_HOME", "var"))
            if (Path(process.cwd()) / process_home).resolve() == home:
                found.setdefault(run_id, process)
        except psutil.Error:
            continue
    return found


def _run_id(arguments: list[str]) -> str | None:
    if arguments[1:2] != ["-m"] or arguments[2:3] not in (["loadtest"], ["locust"]):
        return None
    given = (each.removeprefix(_RUN_ID) for each in arguments if each.startswith(_RUN_ID))
    return next(given, None)
