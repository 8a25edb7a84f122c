"""Waiting for processes to end."""

import time
from collections.abc import Iterable

import psutil

POLL_SECONDS = 0.02


def is_alive(process: psutil.Process) -> bool:
    """Whether it still runs. A zombie does not: where nobody reaps orphans (many containers) it stays for
    ever. But as long as it has other threads, they still hold its ports and files."""
    try:
        if not process.is_running():
            return False
        return process.status() != psutil.STATUS_ZOMBIE or process.num_threads() > 1
    except psutil.NoSuchProcess:
        return False


def pid_is_alive(pid: int) -> bool:
    """`is_alive` for a process id."""
    try:
        return is_alive(psutil.Process(pid))
    except psutil.NoSuchProcess:
        return False


def wait_until_ended(processes: Iterable[psutil.Process], seconds: float) -> list[psutil.Process]:
    """Returns those that are still alive after that time, at once when none is."""
    not_after = time.monotonic() + seconds
    while True:
        alive = [process for process in processes if is_alive(process)]
        if not alive or time.monotonic() >= not_after:
            return alive
        time.sleep(POLL_SECONDS)
