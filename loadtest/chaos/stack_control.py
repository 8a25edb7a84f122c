"""Helper process of `loadtest.chaos.runner`: makes disturbances on the running stack.

Protocol, one JSON value per line. First it writes the names of the components and the URLs of the stack's
API. Then it reads `[verb, component, run_id]`, makes the disturbance, and writes null or an error message.
At the end of its input it starts stopped and paused components, also if the load test was killed.
"""

import json
import signal
import sys
from contextlib import suppress
from datetime import UTC, datetime
from threading import Thread

from db import runs
from loadtest.chaos.disturbance import ENDED_BY, UnavailableComponents
from orchestrator.embedded import Stack
from orchestrator.errors import DatabaseError, OrderSystemError
from orchestrator.settings import LOOPBACK, Settings

RECORD_SECONDS = 20.0
"""How long to try to store a disturbance in the database, which may be the disturbed component."""

SIGNALS = {"kill": signal.SIGKILL, "pause": signal.SIGSTOP, "resume": signal.SIGCONT}


def main() -> None:
    settings = Settings.load()
    stack = Stack(settings)
    running = stack.running_settings()
    api_urls = [f"http://{address}:{running.port('api')}" for address in (LOOPBACK, running.bind_address)]
    write([[component.name for component in stack.components()], [*api_urls, running.api_url]])
    unavailable, run_id = UnavailableComponents(), ""
    for line in sys.stdin:
        verb, component, run_id = json.loads(line)
        problem = _disturb(stack, verb, component, run_id)
        if problem is None:
            unavailable.update_after(verb, component)
        write(problem)
    for component, verb in unavailable.items():
        _disturb(stack, ENDED_BY[verb], component, run_id)


def _disturb(stack: Stack, verb: str, component: str, run_id: str) -> str | None:
    """Make one disturbance. Return an error message if it was not made."""
    at = datetime.now(UTC)
    try:
        if verb in SIGNALS:
            stack.kill(component, SIGNALS[verb])
        else:
            {"restart": stack.restart, "stop": stack.stop, "start": stack.start}[verb](component)
    except OrderSystemError as error:
        return str(error)
    # In a thread: waiting for the database must not delay the next disturbance.
    Thread(target=_record, args=(stack.settings.order_database_url, at, verb, component, run_id)).start()
    return None


def _record(url: str, at: datetime, verb: str, component: str, run_id: str) -> None:
    # The verdict has the disturbance even if it cannot be stored here.
    with suppress(DatabaseError):
        runs.record_disturbance(
            url,
            at=at,
            action=verb,
            component=component,
            run_id=run_id,
            is_planned=True,
            time_budget_seconds=RECORD_SECONDS,
        )


def write(value: object) -> None:
    # The load test may have been killed.
    with suppress(BrokenPipeError):
        sys.stdout.write(json.dumps(value) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    # A signal for all processes of the load test must not prevent the end of the disturbances.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    main()
