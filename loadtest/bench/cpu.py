"""CPU time of the parts of a running stack, from the operating system's own accounting."""

from collections.abc import Mapping
from dataclasses import dataclass

import psutil


@dataclass(frozen=True)
class CpuMeter:
    """Processes by the name of their part; a part is a process with all its children."""

    parts: Mapping[str, int]

    def read_ms(self) -> dict[str, float]:
        """CPU milliseconds that each part has used since it started, those of ended children included."""
        return {name: _used_ms(pid) for name, pid in self.parts.items()}


def spent_ms(before: Mapping[str, float], after: Mapping[str, float]) -> float:
    return sum(after[name] - before[name] for name in before)


def _used_ms(pid: int) -> float:
    process = psutil.Process(pid)
    used = 0.0
    for each in (process, *process.children(recursive=True)):
        try:
            times = each.cpu_times()
        except psutil.NoSuchProcess:
            continue
        used += times.user + times.system
        # Only the root's ended children: those of its children are among them.
        if each.pid == pid:
            used += times.children_user + times.children_system
    return used * 1000
