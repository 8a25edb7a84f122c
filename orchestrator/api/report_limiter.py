"""How many reports are made at once: as many as there are connections for them, and of each kind its own.

An export lasts as long as its reader takes, and an audit as long as there is much to audit. Without places of
their own a few of them would hold every connection, and to everybody else the books would seem to be away.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from enum import Enum

from orchestrator.errors import Overloaded

PATIENCE_SECONDS = 5.0
"""How long a report waits for a place before it is told to come again."""

RETRY_AFTER_SECONDS = 5


class Report(Enum):
    """What is made, how often at once, and how many connections each takes."""

    EXPORT = ("exports", 2, 1)
    AUDIT = ("audits", 1, 2)
    SUMMARY = ("summaries", 1, 1)

    def __init__(self, plural: str, at_once: int, connections: int) -> None:
        self.plural = plural
        self.at_once = at_once
        self.connections = connections


CONNECTIONS = sum(report.at_once * report.connections for report in Report)


class ReportLimiter:
    def __init__(self) -> None:
        self._free: Mapping[Report, asyncio.Semaphore] = {
            report: asyncio.Semaphore(report.at_once) for report in Report
        }

    @asynccontextmanager
    async def of(self, report: Report) -> AsyncIterator[None]:
        """Holds a place. Raises Overloaded when none becomes free in time."""
        free = self._free[report]
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                await free.acquire()
        except TimeoutError:
            raise Overloaded(
                f"too many {report.plural} at once; try again shortly", RETRY_AFTER_SECONDS
            ) from None
        try:
            yield
        finally:
            free.release()
