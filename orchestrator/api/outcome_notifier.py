"""Waiting for outcomes: one loop asks the books for all waiting requests at once."""

import asyncio
from collections import defaultdict
from time import monotonic

import structlog

from db.database import Database
from db.read_models import order_details
from orchestrator.api.timeouts import within
from orchestrator.errors import DatabaseError

TICK_SECONDS = 0.05
GIVE_UP_SECONDS = 1.0
"""How long the books may be silent before those who wait are told so."""

AFTER_A_BUG_SECONDS = 1.0
"""It is likely to come again, and each time fills the log."""

log = structlog.get_logger()


class OutcomeNotifier:
    """Holds requests until their order has its outcome."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: dict[str, set[asyncio.Future[None]]] = defaultdict(set)
        self._someone_waits = asyncio.Event()
        self._is_closed = False

    async def until_finished(self, order_id: str, seconds: float) -> None:
        """Returns when the order has its outcome, the time is up, or the process is about to stop.

        Raises DatabaseUnavailable when the books fall silent.
        """
        if self._is_closed:
            return
        finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[order_id].add(finished)
        self._someone_waits.set()
        try:
            await asyncio.wait({finished}, timeout=seconds)
            if finished.done():
                finished.result()
        finally:
            self._forget(order_id, finished)

    def close(self) -> None:
        """Lets everyone go, and holds nobody from now on."""
        self._is_closed = True
        self._settle(list(self._waiting))

    async def run(self) -> None:
        """Asks the books, forever, while someone waits."""
        heard_at = monotonic()
        while True:
            if not self._someone_waits.is_set():
                await self._someone_waits.wait()
                heard_at = monotonic()
            await asyncio.sleep(TICK_SECONDS)
            try:
                self._settle(await within(order_details.finished_among(self._database, list(self._waiting))))
                heard_at = monotonic()
            except DatabaseError as error:
                if monotonic() - heard_at > GIVE_UP_SECONDS:
                    self._settle(list(self._waiting), error)
            except Exception:
                # Without further looks everybody would wait until the time is up.
                log.exception("outcomes could not be looked up")
                await asyncio.sleep(AFTER_A_BUG_SECONDS)

    def _settle(self, order_ids: set[str] | list[str], error: DatabaseError | None = None) -> None:
        for order_id in order_ids:
            for finished in self._waiting.get(order_id, ()):
                if finished.done():
                    continue
                if error is None:
                    finished.set_result(None)
                else:
                    finished.set_exception(type(error)(str(error)))

    def _forget(self, order_id: str, finished: asyncio.Future[None]) -> None:
        self._waiting[order_id].discard(finished)
        if not self._waiting[order_id]:
            del self._waiting[order_id]
        if not self._waiting:
            self._someone_waits.clear()
