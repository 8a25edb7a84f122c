"""Start the program of one component: `python -S -E launcher.py SPEC.json`.

The supervisor starts every component with this script. It sets the parent-death signal (Linux), so that a
killed supervisor leaves no processes, drops root if the spec says so, and counts the start. Then it replaces
itself by the program (exec), which keeps the process id.

Only fast modules of the standard library are imported. The script adds about 20 ms to each start.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Callable

_PR_SET_PDEATHSIG = 1

_SUPERVISOR_PID = "ORDERS_SUPERVISOR_PID"
_MIN_START_INTERVAL_SECONDS = 0.5


def main(spec_path: str) -> None:
    """Replace this process by `argv` of the spec."""
    with open(spec_path, encoding="utf-8") as file:
        spec = json.load(file)
    parent = spec["parent_pid"]
    if parent is not None:
        # This is the supervisor.
        os.setsid()
        # exec keeps the process id. The components inherit this variable and compare it with their parent.
        os.environ[_SUPERVISOR_PID] = str(os.getpid())
    else:
        parent = int(os.environ[_SUPERVISOR_PID])
    if spec["inherits"] is not None:
        inherited = {name: os.environ[name] for name in spec["inherits"] if name in os.environ}
        os.environ.clear()
        os.environ.update(inherited)
    os.environ.update(spec["environment"])
    if spec["starts"]:
        _count_start(spec["starts"])
    # Before the change of user: the other user may not be able to read the interpreter's directories.
    set_death_signal = _death_signal_setter(spec["death_signal"])
    if spec["uid"] is not None:
        _change_user(spec["uid"], spec["gid"])
    # After the change of user, because the kernel resets the death signal when credentials change.
    set_death_signal(parent)
    # Python ignores these two signals, and exec preserves ignored signals.
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    os.chdir(spec["directory"])
    argv = spec["argv"]
    os.execvp(argv[0], argv)


def _count_start(path: str) -> None:
    with open(path, "a", encoding="utf-8") as file:
        before = os.fstat(file.fileno())
        just_started = before.st_size > 0 and time.time() - before.st_mtime < _MIN_START_INTERVAL_SECONDS
        file.write(f"{os.getpid()} {time.time()}\n")
    if just_started:
        # The program exited immediately; restart it at most twice a second.
        time.sleep(_MIN_START_INTERVAL_SECONDS)


def _change_user(uid: int, gid: int) -> None:
    os.setgroups([gid])
    os.setgid(gid)
    os.setuid(uid)


def _death_signal_setter(death_signal: int) -> Callable[[int], None]:
    if not death_signal or not sys.platform.startswith("linux"):
        return lambda _parent: None
    import ctypes

    prctl = ctypes.CDLL(None).prctl

    def set_death_signal(parent: int) -> None:
        prctl(_PR_SET_PDEATHSIG, death_signal, 0, 0, 0)
        # If the parent died before the call above, no signal follows.
        if os.getppid() != parent:
            sys.exit(1)

    return set_death_signal


if __name__ == "__main__":
    main(sys.argv[1])
