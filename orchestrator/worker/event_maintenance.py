"""Keeps the event log in order: partitions for the days to come, and old ones dropped.

A loop in every order worker, like the reconciler: they are the ones who write events, they run wherever the
system runs, and nothing else has to be installed. An hour's look that finds nothing costs one query; of
several workers that look at once only one acts.
"""

import asyncio
from datetime import timedelta

import structlog

from db.database import Database
from db.maintenance.retention import RetentionRejected, drop_expired, ensure_partitions
from orchestrator.errors import ServiceUnavailable
from orchestrator.settings import Settings

LOOK_EVERY_SECONDS = 3600.0
LOOK_AGAIN_SECONDS = 60.0
"""After a look that could not be made, or left something to do."""

log = structlog.get_logger()


class EventMaintenance:
    def __init__(self, settings: Settings, database: Database) -> None:
        self._settings = settings
        self._database = database

    async def prepare(self) -> bool:
        """Makes the partitions of the days ahead; call it before events are written. False when that cannot
        be just now: then events go into the open partition, and the next look sees to it."""
        try:
            made = await ensure_partitions(self._database)
        except (ServiceUnavailable, RetentionRejected) as error:
            log.warning("partitions could not be made", error=str(error))
            return False
        if made is None:
            log.info("the open partition has filled up, and is given an end")
            return False
        if made:
            log.info("partitions made", partitions=made)
        return True

    async def run(self) -> None:
        """Looks forever, about once an hour."""
        while True:
            is_done = await self.look()
            await asyncio.sleep(LOOK_EVERY_SECONDS if is_done else LOOK_AGAIN_SECONDS)

    async def look(self) -> bool:
        """Makes partitions and drops old ones. Returns whether nothing is left to do."""
        return await self.prepare() and await self._drop_expired()

    async def _drop_expired(self) -> bool:
        days = self._settings.events_keep_days
        if days is None:
            return True
        try:
            report = await drop_expired(self._settings.order_database_url, timedelta(days=days))
        except RetentionRejected as error:
            log.warning("old events are not dropped", error=str(error))
            return True
        except ServiceUnavailable as error:
            log.warning("old events could not be dropped", error=str(error))
            return False
        for partition in report.dropped:
            log.info("old events dropped", partition=partition.name, bytes=partition.bytes)
        return not report.busy and not report.is_elsewhere
