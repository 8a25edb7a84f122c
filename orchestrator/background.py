"""Background tasks of workers and the API, which continue after unexpected errors."""

import asyncio
from collections.abc import Awaitable, Callable
from time import monotonic

import structlog

FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 10.0
"""Limits the number of log lines of a repeated error."""

log = structlog.get_logger()


async def keep_running(
    name: str, work: Callable[[], Awaitable[None]], on_failure: Callable[[], None]
) -> None:
    """Run endless work until it is cancelled. After an unexpected error, log it, call `on_failure`, and start
    the work again.

    The pause before the next start doubles with each failure, up to LONGEST_PAUSE_SECONDS. It is short again
    after the work has run for longer than that.
    """
    pause = FIRST_PAUSE_SECONDS
    while True:
        began = monotonic()
        try:
            await work()
        except Exception:
            log.exception("background task failed", task=name, retry_seconds=pause)
            on_failure()
        if monotonic() - began > LONGEST_PAUSE_SECONDS:
            pause = FIRST_PAUSE_SECONDS
        await asyncio.sleep(pause)
        pause = min(pause * 2, LONGEST_PAUSE_SECONDS)
