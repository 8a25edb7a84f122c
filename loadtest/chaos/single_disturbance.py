"""Helper process of the dashboard: makes one disturbance on the running stack and records it.

Writes null or an error message as JSON. A paused component resumes after `--pause-seconds`, also when the
dashboard has ended or is the paused component.
"""

import argparse
import signal
import sys
import time
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from threading import Thread

from db import runs
from loadtest.chaos.stack_control import RECORD_SECONDS, SIGNALS, write
from orchestrator.embedded import Stack
from orchestrator.embedded.process_table import is_paused
from orchestrator.errors import DatabaseError, FaultsUnavailable, OrderSystemError, StackError
from orchestrator.gateways.registry import faults_unavailable
from orchestrator.settings import Settings

MAX_PAUSE_SECONDS = 60
"""A forgotten pause ends after this time."""

POLL_SECONDS = 0.25


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m loadtest.chaos.single_disturbance", description=__doc__)
    parser.add_argument("verb", choices=SIGNALS)
    parser.add_argument("component")
    parser.add_argument("--run-id", help="The load test that is in progress.")
    parser.add_argument("--pause-seconds", type=float, default=float(MAX_PAUSE_SECONDS))
    given = parser.parse_args(arguments)
    stack = Stack(Settings.load())
    pause_seconds = min(given.pause_seconds, MAX_PAUSE_SECONDS) if given.verb == "pause" else 0.0
    record = partial(_record, stack, given.component, given.run_id)
    at, resume_at = datetime.now(UTC), time.monotonic() + pause_seconds
    try:
        pid = _make(stack, given.verb, given.component)
    except OrderSystemError as error:
        write(str(error))
        return
    write(None)
    # In a thread: the paused component may be PostgreSQL.
    recording = Thread(target=record, args=(given.verb, at, pause_seconds + RECORD_SECONDS))
    recording.start()
    if given.verb == "pause" and _resume(stack, given.component, pid, resume_at):
        record("resume", datetime.now(UTC), RECORD_SECONDS)
    recording.join()


def _make(stack: Stack, verb: str, component: str) -> int:
    """Send the signal and return the process id. Raises OrderSystemError."""
    if (problem := faults_unavailable(stack.running_settings())) is not None:
        raise FaultsUnavailable(problem)
    paused = {each.name for each in stack.processes() if is_paused(each.pid)}
    if verb != "kill" and (component in paused) == (verb == "pause"):
        raise StackError(f"{component} is {'already' if verb == 'pause' else 'not'} paused.")
    return stack.kill(component, SIGNALS[verb])


def _resume(stack: Stack, component: str, pid: int, resume_at: float) -> bool:
    """Resume a component at this time. Return False if it has resumed or ended before."""
    while time.monotonic() < resume_at:
        time.sleep(POLL_SECONDS)
        if not is_paused(pid):
            return False
    with suppress(OrderSystemError):
        stack.kill(component, signal.SIGCONT)
        return True
    return False


def _record(
    stack: Stack, component: str, run_id: str | None, verb: str, at: datetime, retry_seconds: float
) -> None:
    try:
        runs.record_disturbance(
            stack.settings.order_database_url,
            at=at,
            action=verb,
            component=component,
            run_id=run_id,
            time_budget_seconds=retry_seconds,
        )
    except DatabaseError as error:
        print(f"The charts will not show {verb} {component}: {error}", file=sys.stderr)  # noqa: T201


if __name__ == "__main__":
    main()
