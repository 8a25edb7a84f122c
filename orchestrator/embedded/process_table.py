"""Find processes of this machine and wait for them to end."""

import time
from collections.abc import Iterable

import psutil

POLL_SECONDS = 0.02


def is_alive(process: psutil.Process) -> bool:
    """Return whether a process is running.

    A zombie counts as ended, unless other threads of it are running: these still hold its ports and files.
    Zombies can remain for long: in many containers, no init process reaps them.
    """
    try:
        if not process.is_running():
            return False
        return process.status() != psutil.STATUS_ZOMBIE or process.num_threads() > 1
    except psutil.NoSuchProcess:
        return False


def pid_is_alive(pid: int) -> bool:
    try:
        return is_alive(psutil.Process(pid))
    except psutil.NoSuchProcess:
        return False


def is_paused(pid: int) -> bool:
    """Return whether SIGSTOP has stopped the process. Pid 0 stands for no process."""
    try:
        return pid > 0 and psutil.Process(pid).status() == psutil.STATUS_STOPPED
    except psutil.Error:
        return False


def wait_until_ended(processes: Iterable[psutil.Process], seconds: float) -> list[psutil.Process]:
    """Wait at most `seconds` until all processes have ended. Return those that are still alive."""
    deadline = time.monotonic() + seconds
    while True:
        alive = [process for process in processes if is_alive(process)]
        if not alive or time.monotonic() >= deadline:
            return alive
        time.sleep(POLL_SECONDS)


def listening_process(port: int) -> str:
    """Return the process that listens on a TCP port, such as "process 7 (nginx)"; "" if it is unknown.

    "" also for a killed process that has not released the port yet: it has no command line any more.
    """
    try:
        for connection in psutil.net_connections("tcp"):
            address = connection.laddr
            if connection.status != psutil.CONN_LISTEN or not address or connection.pid is None:
                continue
            process = psutil.Process(connection.pid)
            if address.port == port and process.cmdline():
                return f"process {process.pid} ({process.name()})"
    except psutil.Error:
        pass
    return ""
