"""Memory of the components of a running stack. Linux only.

Memory is the proportional set size (PSS) of a component with its child processes, so a page shared by
several processes is counted once in total. PostgreSQL's shared buffers are counted separately: they have a
fixed size, fill up once and stay full.
"""

import threading
import time
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Self

import psutil

from orchestrator.embedded import Stack, components
from orchestrator.errors import StackError

INTERVAL_SECONDS = 5.0
MAX_GAP_SECONDS = 30.0
"""A longer time without a sample proves nothing about the memory."""


class MemoryUsage:
    """Samples the memory of components, by name and process id, while its context is open.

    `samples` are the seconds since the start with the MiB of each component. `ended` are the components
    whose process ended. `shared_mib` is the shared memory in use at the last sample.
    """

    def __init__(self, pids: Mapping[str, int]) -> None:
        self.pids = pids
        self.samples: list[tuple[float, dict[str, float]]] = []
        self.ended: set[str] = set()
        self.shared_mib = 0.0
        self.seconds = 0.0
        self._error: Exception | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._sample_until_stopped, name="memory", daemon=True)

    @classmethod
    def of(cls, stack: Stack) -> Self:
        """Return the usage of a whole running stack. Raises StackError when a component is not running."""
        pids = {each.name: each.pid for each in stack.components() if each.pid is not None}
        planned = [component.name for component in components.components(stack.settings)]
        if missing := [name for name in planned if name not in pids]:
            raise StackError(f"Memory cannot be measured: {', '.join(missing)} not running.")
        return cls(pids)

    def __enter__(self) -> Self:
        self._began = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.monotonic() - self._began
        self._stopping.set()
        self._thread.join()

    def gaps(self) -> list[str]:
        """Return one sentence for each reason why the samples do not cover the whole run."""
        times = [0.0, *(min(at, self.seconds) for at, _ in self.samples), self.seconds]
        gaps = [
            f"no memory sample between {last:.0f} s and {at:.0f} s"
            for last, at in pairwise(times)
            if at - last > MAX_GAP_SECONDS
        ]
        if self._error is not None:
            gaps.append(f"memory sampling failed: {self._error!r}")
        return gaps if self.samples else [*gaps, "no memory sample"]

    def thirds(self, until_seconds: float) -> dict[str, tuple[float, float, float]]:
        """Return the mean MiB of each component in each third of the time; empty with too few samples."""
        samples = [memory for at, memory in self.samples if at <= until_seconds]
        size = len(samples) // 3
        if size == 0:
            return {}
        first, second, third = samples[:size], samples[size : 2 * size], samples[2 * size :]

        def mean(part: list[dict[str, float]], name: str) -> float:
            return fmean(memory[name] for memory in part)

        return {name: (mean(first, name), mean(second, name), mean(third, name)) for name in self.pids}

    def peak_mib(self, name: str) -> float:
        return max((memory[name] for _, memory in self.samples), default=0.0)

    def _sample_until_stopped(self) -> None:
        try:
            while True:
                self._sample()
                if self._stopping.wait(INTERVAL_SECONDS):
                    return
        except Exception as error:
            # An exception in a thread is not raised in the caller: `gaps` reports it.
            self._error = error

    def _sample(self) -> None:
        at_seconds = time.monotonic() - self._began
        sizes = {name: self._proportional_set_sizes(name) for name in self.pids}
        memory = {name: size["Pss_Anon"] + size["Pss_File"] for name, size in sizes.items()}
        self.samples.append((at_seconds, memory))
        self.shared_mib = sum(size["Pss_Shmem"] for size in sizes.values())

    def _proportional_set_sizes(self, name: str) -> dict[str, float]:
        """Return the sums of a component's processes, in MiB."""
        sums = {"Pss_Anon": 0.0, "Pss_File": 0.0, "Pss_Shmem": 0.0}
        try:
            process = psutil.Process(self.pids[name])
            pids = [process.pid, *(child.pid for child in process.children(recursive=True))]
        except psutil.NoSuchProcess:
            self.ended.add(name)
            return sums
        for pid in pids:
            for line in _smaps_rollup(pid).splitlines():
                field, _, size = line.partition(":")
                if field in sums:
                    sums[field] += int(size.removesuffix("kB")) / 1024
        return sums


def _smaps_rollup(pid: int) -> str:
    """Return the memory figures of a process; empty when it has ended."""
    try:
        return Path(f"/proc/{pid}/smaps_rollup").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
