"""Helper process of `loadtest.chaos.runner`: makes disturbances on the running stack.

Protocol, one JSON value per line. First it writes the names of the components and the URLs of the stack's
API. Then it reads `[verb, component, run_id]`, makes the disturbance, and writes null or an error message.
"""

import json
import signal
import sys
from contextlib import suppress
from datetime import UTC, datetime
from threading import Thread

from db import runs
from orchestrator.embedded import Stack
from orchestrator.errors import DatabaseError, OrderSystemError
from orchestrator.settings import LOOPBACK, Settings

RECORD_SECONDS = 20.0
"""How long to try to store a disturbance in the database, which may be the disturbed component."""

_SIGNALS = {"kill": signal.SIGKILL, "pause": signal.SIGSTOP, "resume": signal.SIGCONT}


def main() -> None:
    settings = Settings.load()
    stack = Stack(settings)
    running = stack.running_settings()
    api_urls = [f"http://{address}:{running.port('api')}" for address in (LOOPBACK, running.bind_address)]
    _write([[component.name for component in stack.components()], [*api_urls, running.api_url]])
    for line in sys.stdin:
        verb, component, run_id = json.loads(line)
        problem, at = None, datetime.now(UTC)
        try:
            if verb in _SIGNALS:
                stack.kill(component, _SIGNALS[verb])
            else:
                {"restart": stack.restart, "stop": stack.stop, "start": stack.start}[verb](component)
        except OrderSystemError as error:
            problem = str(error)
        else:
            # In a thread: waiting for the database must not delay the next disturbance.
            arguments = (settings.order_database_url, at, verb, component, run_id)
            Thread(target=_record, args=arguments).start()
        _write(problem)


def _record(url: str, at: datetime, verb: str, component: str, run_id: str) -> None:
    # The verdict has the disturbance even if it cannot be stored here.
    with suppress(DatabaseError):
        runs.record_disturbance(
            url, at=at, action=verb, component=component, run_id=run_id, time_budget_seconds=RECORD_SECONDS
        )


def _write(value: object) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    # The load test handles Ctrl-C and then ends this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    main()
