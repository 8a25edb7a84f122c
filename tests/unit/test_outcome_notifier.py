"""Long polls survive an error of a query."""

import asyncio
from contextlib import suppress

import pytest

from db.database import Database
from db.read_models import order_details
from orchestrator.api import outcome_notifier
from orchestrator.api.outcome_notifier import OutcomeNotifier


async def test_an_unexpected_error_does_not_stop_the_polling(monkeypatch: pytest.MonkeyPatch) -> None:
    queries = 0

    async def finished_among(_database: Database, order_ids: list[str]) -> set[str]:
        nonlocal queries
        queries += 1
        if queries == 1:
            raise RuntimeError("a bug")
        return set(order_ids)

    monkeypatch.setattr(order_details, "finished_among", finished_among)
    monkeypatch.setattr(outcome_notifier, "PAUSE_AFTER_ERROR_SECONDS", 0.01)
    notifier = OutcomeNotifier(Database("postgresql://user@/nothing"))
    running = asyncio.create_task(notifier.run())
    async with asyncio.timeout(10):
        await notifier.wait("a", seconds=60)
    assert queries == 2
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
