"""The health check of a container: `python -m orchestrator.worker.liveness_file TARGET`.

TARGET is the URL of a process with a port, or the LIVENESS_FILE of one without, which the process touches
every second:

    python -m orchestrator.worker.liveness_file http://127.0.0.1:8000/health
    python -m orchestrator.worker.liveness_file /tmp/alive

Exits with 0 if the process is healthy, else with 1 and a message. It imports nothing of this project, so that
it starts in a few hundredths of a second: every container runs it every few seconds.
"""

import asyncio
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

TOUCH_INTERVAL_SECONDS = 1.0
MAX_AGE_SECONDS = 10.0
RESPONSE_TIMEOUT_SECONDS = 4.0


async def keep_touching(file: Path) -> None:
    """Touch the file every second, forever. Its age shows when the event loop is blocked."""
    while True:
        touch(file)
        await asyncio.sleep(TOUCH_INTERVAL_SECONDS)


def touch(file: Path) -> None:
    file.touch()


def failure(target: str) -> str | None:
    """Return why the process with this URL or liveness file is unhealthy, or None if it is healthy."""
    if target.startswith("http://"):
        return _response_failure(target)
    return _file_failure(Path(target))


def _response_failure(url: str) -> str | None:
    # The process runs on this machine, so a proxy from the environment must not be used.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        opener.open(url, timeout=RESPONSE_TIMEOUT_SECONDS).close()
    except (urllib.error.URLError, OSError) as error:
        return f"{url} is unhealthy: {error}"
    return None


def _file_failure(file: Path) -> str | None:
    try:
        age = time.time() - file.stat().st_mtime
    except OSError as error:
        return f"{file} cannot be read: {error.strerror}"
    return f"{file} was last touched {age:.0f} s ago" if age > MAX_AGE_SECONDS else None


if __name__ == "__main__":
    sys.exit(failure(sys.argv[1]) if len(sys.argv) == 2 else __doc__)
