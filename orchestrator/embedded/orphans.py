"""Ends what a killed stack left behind: exactly its own processes, known by the mark they carry."""

import os
import signal
from contextlib import suppress

import psutil

from orchestrator.embedded import postgres
from orchestrator.embedded.layout import Layout
from orchestrator.embedded.process_wait import is_alive, wait_until_ended
from orchestrator.settings import STACK_MARKER

DYING_SECONDS = 3.0
"""The supervisor's death already told its components to end; this is how long they may take."""

ENDING_SECONDS = 5.0


def end_leftovers(layout: Layout) -> None:
    """Returns once no process of an earlier stack on this ORDERS_HOME runs, and its control files are gone.

    Call it only under the stack's lock, when no supervisor answers.
    """
    left = _processes_of(layout)
    supervisor_pid = _recorded_supervisor(layout)
    for process in left:
        if process.pid == supervisor_pid:
            # It is there and does not answer; its components go with it.
            process.kill()
    left = wait_until_ended(left, DYING_SECONDS)
    for number in (signal.SIGTERM, signal.SIGKILL):
        for process in left:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)
        left = wait_until_ended(left, ENDING_SECONDS)
    # Sessions of a killed server end by themselves a moment after it; their mark is overwritten by then.
    wait_until_ended(postgres.servers_on(layout.postgres_data), DYING_SECONDS)
    for file in (layout.supervisor_pid, layout.supervisor_socket, layout.running_settings):
        file.unlink(missing_ok=True)


def _processes_of(layout: Layout) -> list[psutil.Process]:
    found = []
    ourselves = {os.getpid(), *(process.pid for process in psutil.Process().parents())}
    for process in psutil.process_iter():
        try:
            if process.pid in ourselves or process.environ().get(STACK_MARKER) != str(layout.home):
                continue
            if is_alive(process):
                found.append(process)
        except (psutil.Error, OSError):
            # Gone, or another user's: not ours.
            continue
    return found


def _recorded_supervisor(layout: Layout) -> int | None:
    try:
        return int(layout.supervisor_pid.read_text())
    except (OSError, ValueError):
        return None
