"""Background tasks of workers and the API continue after an unexpected error."""

import asyncio
from typing import Any, cast

import pytest
from structlog.testing import capture_logs

from db import api_keys
from db.database import Database
from db.read_models import order_details, order_metrics
from orchestrator import background
from orchestrator.api.admission import Admission
from orchestrator.api.app import _start_background_tasks
from orchestrator.api.context import Context
from orchestrator.api.middleware.auth import KeyStore
from orchestrator.api.outcome_notifier import OutcomeNotifier
from orchestrator.settings import Settings

DATABASE = Database("postgresql://user@/nothing")


class Failing:
    """A query with an unexpected error at its first call."""

    def __init__(self, result: Any) -> None:
        self.calls = 0
        self._result = result

    async def __call__(self, *arguments: Any) -> Any:
        self.calls += 1
        if self.calls == 1:
            raise RuntimeError("a bug")
        return self._result(*arguments)


class StubContext:
    def __init__(self) -> None:
        settings = Settings()
        self.outcomes = OutcomeNotifier(DATABASE)
        self.admission = Admission(settings, DATABASE)
        self.keys = KeyStore(settings, DATABASE)
        self.metrics = self
        self.failures = 0

    def background_task_failed(self) -> None:
        self.failures += 1


async def test_the_tasks_of_the_api_continue_after_an_unexpected_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(background, "FIRST_PAUSE_SECONDS", 0.0)
    outcomes = Failing(lambda _database, order_ids: set(order_ids))
    keys = Failing(lambda *_: ())
    load = Failing(lambda *_: order_metrics.LoadSample(0, None, None, 0, None, frozenset()))
    monkeypatch.setattr(order_details, "finished_among", outcomes)
    monkeypatch.setattr(api_keys, "fetch_stored_keys", keys)
    monkeypatch.setattr(order_metrics, "load_sample", load)
    context = StubContext()
    context.admission.admit("a")
    with capture_logs() as lines:
        tasks = _start_background_tasks(cast(Context, context))
        async with asyncio.timeout(60):
            await context.outcomes.wait("a", seconds=60)
            while min(keys.calls, load.calls) < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    assert outcomes.calls >= 2
    assert context.failures == 3
    failed = {line["task"] for line in lines if line["event"] == "background task failed"}
    assert failed == {"outcomes", "admission", "API keys"}
