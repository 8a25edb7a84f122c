"""CPU and memory of the stack's worker processes on this machine."""

import threading
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import psutil
import streamlit as st

from dashboard.data import clients
from dashboard.data.cached import LIVE_SECONDS

SCAN_SECONDS = 10.0

_STACK_MARKER = "ORDERS_STACK_HOME"


@dataclass(frozen=True)
class WorkerUsage:
    """`cpu` is the share of one core since the previous read (1.0 is a whole core)."""

    name: str
    cpu: float
    memory_bytes: int


class WorkerMeter:
    """Finds workers by the stack marker in their environment. On another machine it finds none."""

    def __init__(self, home: Path) -> None:
        self._home = str(home)
        self._known: dict[str, psutil.Process] = {}
        self._scanned_at = float("-inf")
        self._lock = threading.Lock()

    def read(self) -> list[WorkerUsage]:
        """Return the usage of every worker, by name. The first read of a worker returns 0 CPU."""
        with self._lock:
            if monotonic() - self._scanned_at > SCAN_SECONDS:
                self._scan()
            usages = []
            for name, process in sorted(self._known.items()):
                try:
                    with process.oneshot():
                        cpu, memory = process.cpu_percent(interval=None), process.memory_info().rss
                except psutil.Error:
                    # The process has ended. Scan at the next read, to find its successor.
                    self._scanned_at = float("-inf")
                    continue
                usages.append(WorkerUsage(name, cpu / 100, memory))
            return usages

    def _scan(self) -> None:
        self._scanned_at = monotonic()
        known = {}
        for process in psutil.process_iter():
            try:
                arguments = process.cmdline()
                if arguments[3:4] != ["worker"] or "--name" not in arguments:
                    continue
                if process.environ().get(_STACK_MARKER) != self._home:
                    continue
            except psutil.Error:
                continue
            name = arguments[arguments.index("--name") + 1]
            # psutil measures CPU between two calls on the same object.
            previous = self._known.get(name)
            known[name] = previous if previous == process else process
        self._known = known


@st.cache_resource
def _meter() -> WorkerMeter:
    return WorkerMeter(clients.settings().home)


@st.cache_data(ttl=LIVE_SECONDS, show_spinner=False)
def worker_usage() -> list[WorkerUsage]:
    """Return the usage of every worker. Cached for all viewers, since each read starts a new interval."""
    return _meter().read()
