"""What a worker does besides its orders: it knows the faults in time, and never lives on half dead."""

import asyncio
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast

import pytest
from structlog.testing import capture_logs
from temporalio.common import MetricMeter
from temporalio.runtime import Runtime

from db.faults import FaultChange
from db.pool import Books
from orchestrator import worker
from orchestrator.errors import BooksAway
from orchestrator.outside.faults import ProfiledFaults, named_profile
from orchestrator.settings import Settings

BOOKS = cast(Books, None)
NAMED = FaultChange("assignment", 7, named_profile("assignment").to_json(), datetime.now(UTC))


class NoBooks:
    """Stands in for the pool: nothing is asked of it."""

    def __init__(self, *_: object, **__: object) -> None:
        """Connects to nothing."""

    async def __aenter__(self) -> "NoBooks":
        return self

    async def __aexit__(self, *_: object) -> None:
        return None


class Polling:
    """Stands in for a worker of the SDK, which polls until it is shut down."""

    def __init__(self, faults: ProfiledFaults) -> None:
        self.faults = faults
        self.polled_under: str | None = None
        self._shut_down = asyncio.Event()

    async def run(self) -> None:
        self.polled_under = self.faults.profile.name
        await self._shut_down.wait()

    async def shutdown(self) -> None:
        self._shut_down.set()


@pytest.fixture
def polling(monkeypatch: pytest.MonkeyPatch) -> Polling:
    """The one worker of a process that has neither Temporal nor PostgreSQL."""
    faults = ProfiledFaults(named_profile("none"))
    polling = Polling(faults)

    async def nothing(*_: object) -> None:
        return None

    async def forever(*_: object) -> None:
        await asyncio.Event().wait()

    async def current(_books: Books) -> FaultChange:
        return NAMED

    monkeypatch.setattr(worker, "Books", NoBooks)
    monkeypatch.setattr(worker, "_connected", nothing)
    monkeypatch.setattr(worker, "simulated_outside", lambda _books: None)
    monkeypatch.setattr(worker.Desks, "open", lambda *_: None)
    monkeypatch.setattr(worker, "ProfiledFaults", lambda _profile: faults)
    monkeypatch.setattr(worker, "order_worker", lambda *_, **__: polling)
    monkeypatch.setattr(worker.Housekeeper, "prepare", nothing)
    monkeypatch.setattr(worker.Housekeeper, "run", forever)
    monkeypatch.setattr(worker.Reconciler, "run", forever)
    monkeypatch.setattr(worker.fault_books, "current", current)
    return polling


async def serve(stopping: asyncio.Event) -> None:
    runtime = cast(Runtime, SimpleNamespace(metric_meter=MetricMeter.noop))
    async with asyncio.timeout(5):
        await worker._serve(Settings(), "order", "worker", stopping, runtime, None)


@pytest.mark.parametrize("part", ["Reconciler", "Housekeeper"])
async def test_a_worker_whose_background_work_is_dead_ends_with_its_error(
    part: str, polling: Polling, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def dies(_self: Any) -> None:
        raise LookupError("broken")

    monkeypatch.setattr(getattr(worker, part), "run", dies)
    with capture_logs() as lines, pytest.raises(LookupError, match="broken"):
        await serve(asyncio.Event())
    assert ("error", part.lower()) in [(line["log_level"], line.get("work")) for line in lines]


async def test_a_worker_that_is_told_to_stop_ends_without_an_error(polling: Polling) -> None:
    stopping = asyncio.Event()
    asyncio.get_running_loop().call_later(0.05, stopping.set)
    await serve(stopping)
    assert polling.polled_under == "assignment", "it begins under the profile in force"


async def test_the_first_profile_is_waited_for_a_short_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "FAULTS_POLL_SECONDS", 0.01)
    asked = 0

    async def away_at_first(_books: Books) -> FaultChange:
        nonlocal asked
        asked += 1
        if asked < 3:
            raise BooksAway
        return NAMED

    monkeypatch.setattr(worker.fault_books, "current", away_at_first)
    faults = ProfiledFaults(named_profile("none"))
    await worker.know_faults(BOOKS, faults)
    assert (faults.profile.name, faults.profile.seed, asked) == ("assignment", 7, 3)


async def test_a_worker_starts_although_nobody_knows_the_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "FIRST_FAULTS_SECONDS", 0.05)

    async def silent(_books: Books) -> FaultChange:
        await asyncio.Event().wait()
        return NAMED

    monkeypatch.setattr(worker.fault_books, "current", silent)
    faults = ProfiledFaults(named_profile("none"))
    await worker.know_faults(BOOKS, faults)
    assert faults.profile.name == "none"
