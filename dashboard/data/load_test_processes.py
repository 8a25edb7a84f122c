"""Load tests as processes of their own: started, found again, stopped.

A run belongs to nobody's page: it goes on when the viewer leaves or the dashboard is started again, and is
found by the name that its command line carries.
"""

import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import BinaryIO

import psutil

from loadtest.options import RunOptions, command_line
from orchestrator.errors import OrderSystemError, UsageError
from orchestrator.settings import Settings

PROJECT_ROOT = Path(__file__).parents[2]
LOOK_AGAIN_SECONDS = 1.0
REPORTS = (
    "verdict.json",
    "summary.md",
    "junit.xml",
    "orders.csv",
    "locust.html",
    "locust_stats.csv",
    "locust_failures.csv",
    "locust_exceptions.csv",
)
"""The files of a judged run that are offered for download."""


class LoadRunner:
    """The load tests of one ORDERS_HOME."""

    def __init__(self, settings: Settings) -> None:
        self._home = settings.home
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._seen: list[str] = []
        self._looked_at = float("-inf")

    def start(self, given: dict[str, str], api_key: str | None = None) -> str:
        """Starts a run with the options of `python -m loadtest run`, as text by name; returns its id. The run
        asks the API with `api_key`.

        Raises UsageError for options that cannot be meant, while another run is under way, and where
        nothing may be written.
        """
        if others := sorted(_found(self._home)):
            raise UsageError(f"the run {others[0]} is under way; wait for its verdict or stop it")
        options = RunOptions.parse(given)
        words = command_line(given | {"run_id": options.run_id})
        log = self._log(options.run_id)
        with _writing(log) as output:
            self._children[options.run_id] = subprocess.Popen(
                [sys.executable, "-m", "loadtest", "run", *words],
                cwd=PROJECT_ROOT,
                env=_environment(self._home, api_key),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._looked_at = float("-inf")
        return options.run_id

    def running(self) -> list[str]:
        """The ids of the runs whose process lives, also those that another dashboard or shell started.

        As of the last second: every viewer asks, and looking through all processes takes a while.
        """
        if monotonic() - self._looked_at > LOOK_AGAIN_SECONDS:
            for child in self._children.values():
                # Lets the system forget those that have ended.
                child.poll()
            self._seen = sorted(_found(self._home))
            self._looked_at = monotonic()
        return list(self._seen)

    def stop(self, run_id: str) -> None:
        """Asks a run to stop: it drains, then judges what it has.

        Raises OrderSystemError when it has ended.
        """
        process = _found(self._home).get(run_id)
        if process is None:
            raise OrderSystemError("The run has ended already.")
        process.send_signal(signal.SIGINT)

    def last_words(self, run_id: str, lines: int = 25) -> str:
        """The end of what a run started here has printed; empty when it printed nothing."""
        try:
            with self._log(run_id).open(errors="replace") as log:
                return "".join(deque(log, maxlen=lines)).strip()
        except OSError:
            return ""

    def exit_code(self, run_id: str) -> int | None:
        """How a run that this process started has ended; None while it runs, or when it is not ours."""
        child = self._children.get(run_id)
        return None if child is None else child.poll()

    def reports(self, run_id: str) -> list[Path]:
        """The files of a judged run that are there."""
        directory = self._home / "reports" / run_id
        return [directory / name for name in REPORTS if (directory / name).is_file()]

    def _log(self, run_id: str) -> Path:
        return self._home / "logs" / f"loadtest-{run_id}.log"


@contextmanager
def _writing(log: Path) -> Iterator[BinaryIO]:
    """Raises UsageError where this dashboard may not write."""
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        output = log.open("wb")
    except OSError as error:
        raise UsageError(
            f"this dashboard starts no load tests, since it may not write ({error.strerror}); "
            "use the load tests' own page"
        ) from error
    with output:
        yield output


def _environment(home: Path, api_key: str | None) -> dict[str, str]:
    # The viewer's key or none: never one that the dashboard itself was started with.
    key = {"API_KEY": api_key or ""}
    return os.environ | {"ORDERS_HOME": str(home), "NO_COLOR": "1", "COLUMNS": "110"} | key


def _found(home: Path) -> dict[str, psutil.Process]:
    """Every load test of this ORDERS_HOME, by its run id; of several processes of a run the oldest."""
    found: dict[str, psutil.Process] = {}
    for process in sorted(psutil.process_iter(), key=lambda each: each.pid):
        try:
            words = process.cmdline()
            if not _is_load_test(words) or process.status() == psutil.STATUS_ZOMBIE:
                continue
            where = Path(process.environ().get("ORDERS_HOME", "var"))
            if (Path(process.cwd()) / where).resolve() != home:
                continue
        except psutil.Error:
            continue
        run_id = next(word for word in words if word.startswith("--run-id=")).removeprefix("--run-id=")
        found.setdefault(run_id, process)
    return found


def _is_load_test(words: list[str]) -> bool:
    return (
        words[1:2] == ["-m"]
        and words[2:3] in (["loadtest"], ["locust"])
        and any(word.startswith("--run-id=") for word in words)
    )
