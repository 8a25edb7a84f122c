"""Memory of the components of a running stack, and disk space below ORDERS_HOME. Linux only.

Memory is the proportional set size (PSS) of a component with its child processes, so a page shared by
several processes is counted once in total. PostgreSQL's shared buffers are counted separately: they have a
fixed size, fill up once and stay full.
"""

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Self

import psutil

from orchestrator.embedded import ComponentStatus, Stack, components
from orchestrator.embedded.layout import Layout
from orchestrator.errors import StackError

INTERVAL_SECONDS = 5.0
MAX_GAP_SECONDS = 30.0
"""A longer time without a sample proves nothing about the memory."""

MIB = 2**20


def is_measurable() -> bool:
    """Return True if this system has /proc/PID/smaps_rollup."""
    return Path("/proc/self/smaps_rollup").exists()


@dataclass(frozen=True)
class MemorySample:
    """Bytes per component, and of shared memory, `at_seconds` after the start."""

    at_seconds: float
    memory: Mapping[str, int]
    shared: int


@dataclass(frozen=True)
class MemoryTrend:
    """Mean memory of one component in each third of a run, and its peak, in MiB."""

    first: float
    second: float
    third: float
    peak: float

    @property
    def change(self) -> float:
        """Change from the second to the last third, as a share of the second."""
        return self.third / self.second - 1 if self.second else 0.0


@dataclass
class MemoryUsage:
    """Samples the memory of components while its context is open."""

    components: Sequence[ComponentStatus]
    samples: list[MemorySample] = field(default_factory=list)
    ended: set[str] = field(default_factory=set)
    """Components whose process ended during the measurement."""

    error: Exception | None = None
    seconds: float = 0.0

    @classmethod
    def of(cls, stack: Stack) -> Self:
        """Return the usage of a whole running stack. Raises StackError when a component is not running."""
        statuses = [component for component in stack.components() if component.pid is not None]
        running = {component.name for component in statuses}
        planned = [component.name for component in components.components(stack.settings)]
        if missing := [name for name in planned if name not in running]:
            raise StackError(f"Memory cannot be measured: {', '.join(missing)} not running.")
        return cls(statuses)

    def __enter__(self) -> Self:
        self._began = time.monotonic()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._sample_until_stopped, name="memory", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.monotonic() - self._began
        self._stopping.set()
        self._thread.join()

    def gaps(self) -> list[str]:
        """Return one sentence for each reason why the samples do not cover the whole run."""
        times = [0.0, *(min(sample.at_seconds, self.seconds) for sample in self.samples), self.seconds]
        gaps = [
            f"no memory sample between {last:.0f} s and {at:.0f} s"
            for last, at in pairwise(times)
            if at - last > MAX_GAP_SECONDS
        ]
        if not self.samples:
            gaps.append("no memory sample")
        if self.error is not None:
            gaps.append(f"memory sampling failed: {self.error!r}")
        return gaps

    def trends(self, until_seconds: float) -> dict[str, MemoryTrend]:
        """Return the trend of each component; empty with fewer than three samples."""
        samples = [sample for sample in self.samples if sample.at_seconds <= until_seconds]
        size = len(samples) // 3
        if size == 0:
            return {}
        thirds = samples[:size], samples[size : 2 * size], samples[2 * size :]
        trends = {}
        for component in self.components:
            name = component.name
            first, second, third = (fmean(sample.memory[name] for sample in part) / MIB for part in thirds)
            trends[name] = MemoryTrend(first, second, third, self.peak_mib(name))
        return trends

    def peak_mib(self, name: str) -> float:
        return max((sample.memory[name] for sample in self.samples), default=0) / MIB

    @property
    def shared_mib(self) -> float:
        """Shared memory in use at the end."""
        return self.samples[-1].shared / MIB if self.samples else 0.0

    def _sample_until_stopped(self) -> None:
        try:
            while True:
                self._sample()
                next_at = self._began + len(self.samples) * INTERVAL_SECONDS
                if self._stopping.wait(max(next_at - time.monotonic(), 0.0)):
                    return
        except Exception as error:
            # An exception in a thread is not raised in the caller: `gaps` reports it.
            self.error = error

    def _sample(self) -> None:
        at_seconds = time.monotonic() - self._began
        memory, shared = {}, 0
        for component in self.components:
            private, shared_part = self._memory_of(component)
            memory[component.name] = private
            shared += shared_part
        self.samples.append(MemorySample(at_seconds, memory, shared))

    def _memory_of(self, component: ComponentStatus) -> tuple[int, int]:
        """Return bytes of private and of shared memory."""
        try:
            process = psutil.Process(component.pid or 0)
            processes = [process, *process.children(recursive=True)]
        except psutil.NoSuchProcess:
            self.ended.add(component.name)
            return 0, 0
        sizes = [_proportional_set_sizes(each.pid) for each in processes]
        private = sum(size.get("Pss_Anon", 0) + size.get("Pss_File", 0) for size in sizes)
        return private, sum(size.get("Pss_Shmem", 0) for size in sizes)


@dataclass(frozen=True)
class DiskUsage:
    """Bytes below ORDERS_HOME."""

    tables: int
    wal: int
    temporal: int
    logs: int

    @classmethod
    def of(cls, layout: Layout) -> Self:
        wal = layout.postgres_data / "pg_wal"
        return cls(
            tables=_size(layout.postgres_data) - _size(wal),
            wal=_size(wal),
            temporal=_size(layout.temporal_data),
            logs=_size(layout.logs),
        )


def _proportional_set_sizes(pid: int) -> dict[str, int]:
    """Return the `Pss` values of a process in bytes; empty when it has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return {}
    fields = (line.split() for line in lines if line.startswith("Pss"))
    return {name.rstrip(":"): int(kilobytes) * 1024 for name, kilobytes, *_ in fields}


def _size(directory: Path) -> int:
    """Return the bytes of all files below a directory of a running server."""
    total = 0
    for path in directory.rglob("*"):
        try:
            status = path.lstat()
        except FileNotFoundError:
            continue
        # A sparse file uses fewer blocks than its length.
        total += min(status.st_size, status.st_blocks * 512)
    return total
