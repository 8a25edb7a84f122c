"""The health check of a container: `python -S orchestrator/worker/liveness_file.py TARGET`.

TARGET is the URL of a process with a port, or the LIVENESS_FILE of one without, which the process touches
every second:

    python -S orchestrator/worker/liveness_file.py http://127.0.0.1:8000/health
    python -S orchestrator/worker/liveness_file.py /tmp/alive

Exits with 0 if the process is healthy, else with 1 and a message. Every container runs it every few seconds,
so it imports as little as possible.
"""

import os
import sys
import time

TOUCH_INTERVAL_SECONDS = 1.0
MAX_AGE_SECONDS = 10.0
RESPONSE_TIMEOUT_SECONDS = 4.0


async def keep_touching(file: os.PathLike[str]) -> None:
    """Touch the file every second, forever. Its age shows when the event loop is blocked."""
    import asyncio

    while True:
        touch(file)
        await asyncio.sleep(TOUCH_INTERVAL_SECONDS)


def touch(file: os.PathLike[str]) -> None:
    with open(file, "ab"):
        os.utime(file)


def failure(target: str) -> str | None:
    """Return why the process with this URL or liveness file is unhealthy, or None if it is healthy."""
    if target.startswith("http://"):
        return _response_failure(target)
    return _file_failure(target)


def _response_failure(url: str) -> str | None:
    # Importing http.client takes longer than the check, and so does looking up a host name.
    import socket

    address, _, path = url.removeprefix("http://").partition("/")
    # The path of the dashboard in the URL can end with a slash.
    path = path.replace("//", "/")
    host, _, port = address.partition(":")
    request = f"GET /{path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
    try:
        with socket.socket() as connection:
            connection.settimeout(RESPONSE_TIMEOUT_SECONDS)
            connection.connect((host, int(port or 80)))
            connection.sendall(request.encode())
            with connection.makefile("rb") as response:
                status_line = response.readline(1024).decode(errors="replace").strip()
    except OSError as error:
        return f"{url} is unhealthy: {error}"
    return None if status_line.split(" ")[1:2] == ["200"] else f"{url} is unhealthy: {status_line!r}"


def _file_failure(file: str) -> str | None:
    try:
        age = time.time() - os.stat(file).st_mtime
    except OSError as error:
        return f"{file} cannot be read: {error.strerror}"
    return f"{file} was last touched {age:.0f} s ago" if age > MAX_AGE_SECONDS else None


if __name__ == "__main__":
    sys.exit(failure(sys.argv[1]) if len(sys.argv) == 2 else __doc__)
