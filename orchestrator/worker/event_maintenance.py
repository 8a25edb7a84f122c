"""Maintains the partitions of the event log: creates those of the coming days and drops expired ones.

Every order worker runs this loop, so no other scheduler has to be installed. A pass with nothing to do costs
one query. If several workers run a pass at once, an advisory lock lets one of them act.
"""

import asyncio
from datetime import timedelta

import structlog

from db.database import Database
from db.maintenance.retention import RetentionRejected, drop_expired, ensure_partitions
from orchestrator.errors import ServiceUnavailable
from orchestrator.settings import Settings

INTERVAL_SECONDS = 3600.0
RETRY_SECONDS = 60.0
"""After a pass that failed or left something to do."""

log = structlog.get_logger()


class EventMaintenance:
    def __init__(self, settings: Settings, database: Database) -> None:
        self._settings = settings
        self._database = database

    async def prepare(self) -> bool:
        """Create the partitions of the coming days; call it before events are written.

        Returns False if that is not possible now. Events then go into the default partition, until a later
        pass succeeds.
        """
        try:
            created = await ensure_partitions(self._database)
        except (ServiceUnavailable, RetentionRejected) as error:
            log.warning("cannot create event partitions", error=str(error))
            return False
        if created is None:
            log.info("the default event partition is full and gets an upper bound")
            return False
        if created:
            log.info("event partitions created", partitions=created)
        return True

    async def run(self) -> None:
        """Run a pass every hour, forever."""
        while True:
            is_done = await self.run_once()
            await asyncio.sleep(INTERVAL_SECONDS if is_done else RETRY_SECONDS)

    async def run_once(self) -> bool:
        """Create partitions and drop expired ones. Return whether nothing is left to do."""
        return await self.prepare() and await self._drop_expired()

    async def _drop_expired(self) -> bool:
        days = self._settings.events_keep_days
        if days is None:
            return True
        try:
            report = await drop_expired(self._settings.order_database_url, timedelta(days=days))
        except RetentionRejected as error:
            log.warning("expired events are not dropped", error=str(error))
            return True
        except ServiceUnavailable as error:
            log.warning("cannot drop expired events", error=str(error))
            return False
        for partition in report.dropped:
            log.info("expired events dropped", partition=partition.name, bytes=partition.bytes)
        return not report.busy and not report.is_elsewhere
