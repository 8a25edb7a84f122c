"""Waiting for outcomes goes on whatever one look at the books meets."""

import asyncio
from contextlib import suppress

import pytest

from db.database import Database
from db.read_models import order_details
from orchestrator.api import outcome_notifier
from orchestrator.api.outcome_notifier import OutcomeNotifier


async def test_a_bug_in_one_look_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = 0

    async def finished_among(_database: Database, order_ids: list[str]) -> set[str]:
        nonlocal looks
        looks += 1
        if looks == 1:
            raise RuntimeError("a bug")
        return set(order_ids)

    monkeypatch.setattr(order_details, "finished_among", finished_among)
    monkeypatch.setattr(outcome_notifier, "AFTER_A_BUG_SECONDS", 0.01)
    watch = OutcomeNotifier(Database("postgresql://nobody@/nothing"))
    running = asyncio.create_task(watch.run())
    async with asyncio.timeout(10):
        await watch.until_finished("a", seconds=60)
    assert looks == 2
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
