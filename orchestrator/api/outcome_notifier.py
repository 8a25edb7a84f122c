"""Long polls: one query every 50 ms looks up the outcomes that all waiting requests need."""

import asyncio
from collections import defaultdict
from collections.abc import Collection
from time import monotonic

from db.database import Database
from db.read_models import order_details
from orchestrator.api.timeouts import with_timeout
from orchestrator.errors import DatabaseError

POLL_SECONDS = 0.05
UNAVAILABLE_SECONDS = 1.0
"""Time without a response of the database after which the waiting requests fail."""


class OutcomeNotifier:
    """Holds requests until their order has its outcome."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: dict[str, set[asyncio.Future[None]]] = defaultdict(set)
        self._has_waiting = asyncio.Event()
        self._is_closed = False

    async def wait(self, order_id: str, seconds: float) -> None:
        """Return when the order has its outcome, after `seconds`, or when the process shuts down.

        Raises DatabaseError.
        """
        if self._is_closed:
            return
        finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[order_id].add(finished)
        self._has_waiting.set()
        try:
            await asyncio.wait({finished}, timeout=seconds)
            if finished.done():
                finished.result()
        finally:
            self._remove(order_id, finished)

    def close(self) -> None:
        """Make all waiting requests return. Later requests return immediately."""
        self._is_closed = True
        self._wake(list(self._waiting))

    async def run(self) -> None:
        """Look up outcomes while requests wait, until cancelled."""
        responded_at = monotonic()
        while True:
            if not self._has_waiting.is_set():
                await self._has_waiting.wait()
                responded_at = monotonic()
            await asyncio.sleep(POLL_SECONDS)
            try:
                self._wake(
                    await with_timeout(order_details.finished_among(self._database, list(self._waiting)))
                )
                responded_at = monotonic()
            except DatabaseError as error:
                if monotonic() - responded_at > UNAVAILABLE_SECONDS:
                    self._wake(list(self._waiting), error)

    def _wake(self, order_ids: Collection[str], error: DatabaseError | None = None) -> None:
        for order_id in order_ids:
            for finished in self._waiting.get(order_id, ()):
                if finished.done():
                    continue
                if error is None:
                    finished.set_result(None)
                else:
                    finished.set_exception(type(error)(str(error)))

    def _remove(self, order_id: str, finished: asyncio.Future[None]) -> None:
        self._waiting[order_id].discard(finished)
        if not self._waiting[order_id]:
            del self._waiting[order_id]
        if not self._waiting:
            self._has_waiting.clear()
