"""Bulkhead for reports: each kind of report has its own limit and its own database connections.

Exports and audits run for minutes. Without the limit, a few of them would occupy every connection, and all
other requests would fail with 503.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from enum import Enum

from orchestrator.errors import Overloaded

MAX_WAIT_SECONDS = 5.0
"""Maximum time that a report waits for a slot."""

RETRY_AFTER_SECONDS = 5


class Report(Enum):
    """Kinds of reports: how many run at the same time, and how many connections each uses."""

    EXPORT = ("exports", 2, 1)
    AUDIT = ("audits", 1, 2)
    RUN_AUDIT = ("audits of load tests", 1, 2)
    """Separate from AUDIT, because the verdict of a load test waits for this audit."""

    SUMMARY = ("summaries", 1, 1)

    def __init__(self, plural: str, max_running: int, connections: int) -> None:
        self.plural = plural
        self.max_running = max_running
        self.connections = connections


CONNECTIONS = sum(report.max_running * report.connections for report in Report)


class ReportLimiter:
    def __init__(self) -> None:
        self._slots: Mapping[Report, asyncio.Semaphore] = {
            report: asyncio.Semaphore(report.max_running) for report in Report
        }

    @asynccontextmanager
    async def slot(self, report: Report) -> AsyncIterator[None]:
        """Hold a slot for a report. Raises Overloaded when none becomes free in time."""
        slots = self._slots[report]
        try:
            async with asyncio.timeout(MAX_WAIT_SECONDS):
                await slots.acquire()
        except TimeoutError:
            raise Overloaded(
                f"too many {report.plural} are running; try again shortly", RETRY_AFTER_SECONDS
            ) from None
        try:
            yield
        finally:
            slots.release()
