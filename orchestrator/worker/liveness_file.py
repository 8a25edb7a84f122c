"""Whether the process of a container is well: what its health check asks.

A process with a port is asked over HTTP. One without touches the file LIVENESS_FILE as long as its work goes
round, and is well while that file is fresh:

    python -m orchestrator.worker.liveness_file http://127.0.0.1:8000/health
    python -m orchestrator.worker.liveness_file /tmp/alive

Exits with 0 when it is well, else with 1 and one sentence. Starts in a few hundredths of a second, because it
runs every few seconds in every container: it imports nothing of this project.
"""

import asyncio
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

TOUCH_SECONDS = 1.0
FRESH_SECONDS = 10.0
ANSWER_SECONDS = 4.0


async def show_alive(file: Path) -> None:
    """Touches the file every second, forever: it grows old when the event loop stands still."""
    while True:
        touch(file)
        await asyncio.sleep(TOUCH_SECONDS)


def touch(file: Path) -> None:
    """Says that the process is alive just now."""
    file.touch()


def trouble(target: str) -> str | None:
    """What is wrong with the process that answers at this URL or touches this file; None when it is well."""
    if target.startswith("http://"):
        return _no_answer(target)
    return _stale(Path(target))


def _no_answer(url: str) -> str | None:
    # A proxy of the environment has nothing to do with a process beside us.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        opener.open(url, timeout=ANSWER_SECONDS).close()
    except (urllib.error.URLError, OSError) as error:
        return f"{url} does not answer as it should: {error}"
    return None


def _stale(file: Path) -> str | None:
    try:
        age = time.time() - file.stat().st_mtime
    except OSError as error:
        return f"{file} is not there: {error.strerror}"
    return f"{file} was last touched {age:.0f} s ago" if age > FRESH_SECONDS else None


if __name__ == "__main__":
    sys.exit(trouble(sys.argv[1]) if len(sys.argv) == 2 else __doc__)
