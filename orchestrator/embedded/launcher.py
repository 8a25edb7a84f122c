"""Becomes the program of one component: `python -S -E launcher.py SPEC.json`.

The supervisor starts every component through this script. It makes the program die with the supervisor
(Linux: the parent-death signal), so that a killed supervisor leaves nothing behind; it drops root where
asked; it counts the start. Then it turns into the program by exec, so that the process id and every
signal are the program's own.

Only the standard library's quick modules are imported here: this costs every start about 20 ms.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Callable

_PR_SET_PDEATHSIG = 1

_SUPERVISOR_PID = "ORDERS_SUPERVISOR_PID"
_PAUSE_SECONDS = 0.5


def main(spec_path: str) -> None:
    """Never returns: the process becomes `argv` of the spec."""
    with open(spec_path, encoding="utf-8") as file:
        spec = json.load(file)
    os.environ.update(spec["environment"])
    if spec["is_supervisor"]:
        os.setsid()
        parent = spec["parent_pid"]
        # Exec keeps the process id, so the components inherit whose children they are.
        os.environ[_SUPERVISOR_PID] = str(os.getpid())
    else:
        parent = int(os.environ[_SUPERVISOR_PID])
    if spec["starts"]:
        _count_start(spec["starts"])
    # Found now: another user may not be allowed to read the interpreter's directories.
    die_with = _death_signal_setter(spec["death_signal"])
    if spec["uid"] is not None:
        _become(spec["uid"], spec["gid"])
    # After the change of user: the kernel forgets the death signal when credentials change.
    die_with(parent)
    # Python ignores these two; the program may want them.
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    os.chdir(spec["directory"])
    argv = spec["argv"]
    os.execvp(argv[0], argv)


def _count_start(path: str) -> None:
    with open(path, "a", encoding="utf-8") as file:
        before = os.fstat(file.fileno())
        just_started = before.st_size > 0 and time.time() - before.st_mtime < _PAUSE_SECONDS
        file.write(f"{os.getpid()} {time.time()}\n")
    if just_started:
        # It died as soon as it was started, and would again: not more than twice a second.
        time.sleep(_PAUSE_SECONDS)


def _become(uid: int, gid: int) -> None:
    os.setgroups([gid])
    os.setgid(gid)
    os.setuid(uid)


def _death_signal_setter(death_signal: int) -> Callable[[int], None]:
    if not death_signal or not sys.platform.startswith("linux"):
        return lambda _parent: None
    import ctypes

    prctl = ctypes.CDLL(None).prctl

    def die_with(parent: int) -> None:
        prctl(_PR_SET_PDEATHSIG, death_signal, 0, 0, 0)
        # The parent may have died before the call above; then no signal will come.
        if os.getppid() != parent:
            sys.exit(1)

    return die_with


if __name__ == "__main__":
    main(sys.argv[1])
