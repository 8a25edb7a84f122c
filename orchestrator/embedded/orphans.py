"""End the processes that a killed stack left behind."""

import os
import signal
from contextlib import suppress

import psutil

from orchestrator.embedded import postgres
from orchestrator.embedded.layout import Layout
from orchestrator.embedded.process_table import is_alive, wait_until_ended
from orchestrator.settings import STACK_MARKER

DEATH_SIGNAL_SECONDS = 3.0
"""The supervisor's death has sent a signal to every component."""

STOP_SECONDS = 5.0


def end_orphans(layout: Layout) -> None:
    """End every process of an earlier stack on this ORDERS_HOME and remove its control files.

    The processes are known by an environment variable of theirs. The caller holds the stack's lock and has
    made sure that no supervisor responds.
    """
    orphans = _processes_of(layout)
    supervisor_pid = _recorded_supervisor(layout)
    for process in orphans:
        if process.pid == supervisor_pid:
            # It hangs. Its components receive their death signals.
            process.kill()
    orphans = wait_until_ended(orphans, DEATH_SIGNAL_SECONDS)
    for number in (signal.SIGTERM, signal.SIGKILL):
        for process in orphans:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)
        orphans = wait_until_ended(orphans, STOP_SECONDS)
    # Backends of a killed server exit a moment later. PostgreSQL has overwritten their environment.
    wait_until_ended(postgres.servers_on(layout.postgres_data), DEATH_SIGNAL_SECONDS)
    for file in (layout.supervisor_pid, layout.supervisor_socket, layout.running_settings):
        file.unlink(missing_ok=True)


def _processes_of(layout: Layout) -> list[psutil.Process]:
    found = []
    own = {os.getpid(), *(process.pid for process in psutil.Process().parents())}
    for process in psutil.process_iter():
        # A process that has ended, or belongs to another user, raises an error.
        with suppress(psutil.Error, OSError):
            is_ours = process.pid not in own and process.environ().get(STACK_MARKER) == str(layout.home)
            if is_ours and is_alive(process):
                found.append(process)
    return found


def _recorded_supervisor(layout: Layout) -> int | None:
    try:
        return int(layout.supervisor_pid.read_text())
    except (OSError, ValueError):
        return None
