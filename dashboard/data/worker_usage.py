"""CPU and memory of the worker processes of our stack, as this machine sees them."""

import threading
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import psutil

LOOK_AGAIN_SECONDS = 10.0

_STACK_MARKER = "ORDERS_STACK_HOME"


@dataclass(frozen=True)
class WorkerUse:
    """`cpu` is the share of one core since the last look (1.0 is a whole core)."""

    name: str
    cpu: float
    memory_bytes: int


class WorkerMeter:
    """Finds the workers that carry our stack's mark; on another machine it finds none."""

    def __init__(self, home: Path) -> None:
        self._home = str(home)
        self._known: dict[str, psutil.Process] = {}
        self._looked_at = float("-inf")
        self._lock = threading.Lock()

    def read(self) -> list[WorkerUse]:
        """Every worker, by name. The first reading of a worker says 0 CPU."""
        with self._lock:
            if monotonic() - self._looked_at > LOOK_AGAIN_SECONDS:
                self._look_around()
            found = []
            for name, process in sorted(self._known.items()):
                try:
                    with process.oneshot():
                        cpu, memory = process.cpu_percent(interval=None), process.memory_info().rss
                except psutil.Error:
                    # Gone; its successor is found at the next look, which is due now.
                    self._looked_at = float("-inf")
                    continue
                found.append(WorkerUse(name, cpu / 100, memory))
            return found

    def _look_around(self) -> None:
        self._looked_at = monotonic()
        known = {}
        for process in psutil.process_iter():
            try:
                words = process.cmdline()
                if words[3:4] != ["worker"] or "--name" not in words:
                    continue
                if process.environ().get(_STACK_MARKER) != self._home:
                    continue
            except psutil.Error:
                continue
            name = words[words.index("--name") + 1]
            before = self._known.get(name)
            known[name] = before if before == process else process
        self._known = known
