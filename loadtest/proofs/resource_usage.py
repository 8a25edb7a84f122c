"""What a running stack takes of its machine: the memory of each component, and the disk below ORDERS_HOME.

Memory is counted per component, child processes included, as Linux's proportional set size (PSS): a page
that several processes share is counted once altogether. Pages of PostgreSQL's shared buffers are left out
of it and told apart: they are a block of fixed size, which fills up once and then stays. Linux only.
"""

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from types import TracebackType
from typing import Self

import psutil

from orchestrator.embedded import ComponentStatus, Stack, components
from orchestrator.embedded.layout import Layout
from orchestrator.errors import StackError

EVERY_SECONDS = 5.0
LONGEST_GAP_SECONDS = 30.0
"""Longer without a look, and nobody knows what has been meanwhile."""

_MIB = 2**20


def can_be_measured() -> bool:
    """Whether this system tells the memory of its processes in the way that is needed."""
    return Path("/proc/self/smaps_rollup").exists()


@dataclass(frozen=True)
class Sample:
    """One moment: `at_seconds` since the first one; bytes of each component, of shared buffers, on disk."""

    at_seconds: float
    memory: Mapping[str, int]
    shared: int


@dataclass(frozen=True)
class Trend:
    """One component's memory in MiB: the means of the three thirds of a run, and the most ever seen."""

    first: float
    second: float
    third: float
    peak: float

    @property
    def change(self) -> float:
        """Of the last third against the second, as a share of the second."""
        return self.third / self.second - 1 if self.second else 0.0


@dataclass
class Footprint:
    """Looks every few seconds, from `__enter__` to `__exit__`, in a thread of its own."""

    components: Sequence[ComponentStatus]
    samples: list[Sample] = field(default_factory=list)
    lost: set[str] = field(default_factory=set)
    """Components whose process has ended meanwhile."""

    seconds: float = 0.0
    """How long it was to look."""

    failure: Exception | None = None
    """Why it looked for less."""

    def __post_init__(self) -> None:
        self._began = 0.0
        self._ending = threading.Event()
        self._looking = threading.Thread(target=self._look_until_the_end, name="footprint", daemon=True)

    @classmethod
    def of(cls, stack: Stack) -> Self:
        """Of a whole running stack. Raises StackError when a planned component is missing."""
        statuses = [component for component in stack.components() if component.pid is not None]
        running = {component.name for component in statuses}
        planned = [component.name for component in components.components(stack.settings)]
        if missing := [name for name in planned if name not in running]:
            raise StackError(f"The memory of {', '.join(missing)} cannot be measured: it does not run.")
        return cls(statuses)

    def __enter__(self) -> Self:
        self._began = time.monotonic()
        self._looking.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.seconds = time.monotonic() - self._began
        self._ending.set()
        self._looking.join()

    def gaps(self) -> list[str]:
        """What is not known of the memory, a sentence each."""
        looks = [0.0, *(min(sample.at_seconds, self.seconds) for sample in self.samples), self.seconds]
        found = [
            f"the memory was not read between {last:.0f} s and {at:.0f} s"
            for last, at in pairwise(looks)
            if at - last > LONGEST_GAP_SECONDS
        ]
        if not self.samples:
            found.append("the memory was never read")
        if self.failure is not None:
            found.append(f"the memory could not be read to the end: {self.failure!r}")
        return found

    def trends(self, begin_seconds: float, end_seconds: float) -> dict[str, Trend]:
        """Of each component between two moments; empty when there are too few samples for thirds."""
        within = [sample for sample in self.samples if begin_seconds <= sample.at_seconds <= end_seconds]
        size = len(within) // 3
        if size == 0:
            return {}
        thirds = within[:size], within[size : 2 * size], within[2 * size :]
        found = {}
        for component in self.components:
            first, second, third = (
                fmean(sample.memory[component.name] for sample in samples) / _MIB for samples in thirds
            )
            found[component.name] = Trend(first, second, third, self.peak_mib(component.name))
        return found

    def by_minute(self, name: str) -> list[float]:
        """The mean of each minute, in MiB."""
        minutes: dict[int, list[int]] = {}
        for sample in self.samples:
            minutes.setdefault(int(sample.at_seconds // 60), []).append(sample.memory[name])
        return [fmean(each) / _MIB for _, each in sorted(minutes.items())]

    def peak_mib(self, name: str) -> float:
        return max((sample.memory[name] for sample in self.samples), default=0) / _MIB

    @property
    def shared_mib(self) -> float:
        """How much of the shared buffers has been touched in the end."""
        return self.samples[-1].shared / _MIB if self.samples else 0.0

    def _look_until_the_end(self) -> None:
        try:
            self._look()
        except Exception as error:
            # It is a thread of its own: what ends it is seen by nobody otherwise.
            self.failure = error

    def _look(self) -> None:
        while True:
            at_seconds = time.monotonic() - self._began
            memory, shared = {}, 0
            for component in self.components:
                own, of_all = self._memory_of(component)
                memory[component.name] = own
                shared += of_all
            self.samples.append(Sample(at_seconds, memory, shared))
            if self._ending.wait(
                max(self._began + len(self.samples) * EVERY_SECONDS - time.monotonic(), 0.0)
            ):
                return

    def _memory_of(self, component: ComponentStatus) -> tuple[int, int]:
        """Bytes of its own, and of shared memory."""
        own, shared = 0, 0
        try:
            process = psutil.Process(component.pid or 0)
            family = [process, *process.children(recursive=True)]
        except psutil.NoSuchProcess:
            self.lost.add(component.name)
            return 0, 0
        for member in family:
            pss = _proportional_set(member.pid)
            own += pss.get("Pss_Anon", 0) + pss.get("Pss_File", 0)
            shared += pss.get("Pss_Shmem", 0)
        return own, shared


@dataclass(frozen=True)
class Disk:
    """Bytes below ORDERS_HOME: PostgreSQL's tables, its write-ahead log, Temporal's database, the logs."""

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

    def since(self, before: "Disk") -> "Disk":
        return Disk(
            self.tables - before.tables,
            self.wal - before.wal,
            self.temporal - before.temporal,
            self.logs - before.logs,
        )


def _proportional_set(pid: int) -> dict[str, int]:
    """The `Pss` lines of a process in bytes; empty when it has ended meanwhile."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return {}
    parts = (line.split() for line in lines if line.startswith("Pss"))
    return {name.rstrip(":"): int(kilobytes) * 1024 for name, kilobytes, *_ in parts}


def _size(directory: Path) -> int:
    """Bytes of the files below it. Files come and go while a server runs."""
    total = 0
    for path in directory.rglob("*"):
        try:
            status = path.lstat()
        except FileNotFoundError:
            continue
        # A file with holes takes less than its length.
        total += min(status.st_size, status.st_blocks * 512)
    return total
