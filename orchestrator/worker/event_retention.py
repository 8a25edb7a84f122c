"""Deletes expired events once an hour.

Every order worker runs this loop, so no other scheduler has to be installed. A pass with nothing to do costs
two queries; a row lock serializes concurrent passes.
"""

import asyncio
from datetime import timedelta

import structlog

from db.database import Database
from db.maintenance.retention import RetentionRejected, delete_expired
from orchestrator.errors import ServiceUnavailable

INTERVAL_SECONDS = 3600.0
RETRY_SECONDS = 60.0

log = structlog.get_logger()


class EventRetention:
    def __init__(self, database: Database, keep: timedelta) -> None:
        self._database = database
        self._keep = keep

    async def run(self) -> None:
        """Run a pass every hour, forever."""
        while True:
            is_done = await self.run_once()
            await asyncio.sleep(INTERVAL_SECONDS if is_done else RETRY_SECONDS)

    async def run_once(self) -> bool:
        """Delete expired events. Return False if that must be retried soon."""
        try:
            report = await delete_expired(self._database, self._keep)
        except RetentionRejected as error:
            log.warning("expired events are not deleted", error=str(error))
            return True
        except ServiceUnavailable as error:
            log.warning("cannot delete expired events", error=str(error))
            return False
        if report.events:
            log.info("expired events deleted", orders=report.orders, events=report.events)
        return True
