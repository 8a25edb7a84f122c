"""What a worker does besides its orders: it knows the faults in time, and never lives on half dead."""

import asyncio
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast

import pytest
from structlog.testing import capture_logs
from temporalio.common import MetricMeter
from temporalio.runtime import Runtime

from db.database import Database
from db.fault_profiles import FaultChange
from orchestrator.errors import DatabaseUnavailable
from orchestrator.gateways.fault_injection import ProfileFaultInjector, named_profile
from orchestrator.settings import Settings
from orchestrator.worker import main

BOOKS = cast(Database, None)
NAMED = FaultChange("assignment", 7, named_profile("assignment").to_json(), datetime.now(UTC))


class NoDatabase:
    """Stands in for the pool: nothing is asked of it."""

    def __init__(self, *_: object, **__: object) -> None:
        """Connects to nothing."""

    async def __aenter__(self) -> "NoDatabase":
        return self

    async def __aexit__(self, *_: object) -> None:
        return None


class Polling:
    """Stands in for a worker of the SDK, which polls until it is shut down."""

    def __init__(self, faults: ProfileFaultInjector) -> None:
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
    faults = ProfileFaultInjector(named_profile("none"))
    polling = Polling(faults)

    async def nothing(*_: object) -> None:
        return None

    async def forever(*_: object) -> None:
        await asyncio.Event().wait()

    async def current(_database: Database) -> FaultChange:
        return NAMED

    monkeypatch.setattr(main, "Database", NoDatabase)
    monkeypatch.setattr(main, "_connected", nothing)
    monkeypatch.setattr(main, "simulated_gateways", lambda _database: None)
    monkeypatch.setattr(main.ActivitySet, "open", lambda *_: None)
    monkeypatch.setattr(main, "ProfileFaultInjector", lambda _profile: faults)
    monkeypatch.setattr(main, "order_worker", lambda *_, **__: polling)
    monkeypatch.setattr(main.EventMaintenance, "prepare", nothing)
    monkeypatch.setattr(main.EventMaintenance, "run", forever)
    monkeypatch.setattr(main.Reconciler, "run", forever)
    monkeypatch.setattr(main.fault_profiles, "current", current)
    return polling


async def serve(stopping: asyncio.Event) -> None:
    runtime = cast(Runtime, SimpleNamespace(metric_meter=MetricMeter.noop))
    async with asyncio.timeout(5):
        await main._serve(Settings(), "order", "worker", stopping, runtime, None)


@pytest.mark.parametrize("part", ["Reconciler", "EventMaintenance"])
async def test_a_worker_whose_background_work_is_dead_ends_with_its_error(
    part: str, polling: Polling, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def dies(_self: Any) -> None:
        raise LookupError("broken")

    monkeypatch.setattr(getattr(main, part), "run", dies)
    with capture_logs() as lines, pytest.raises(LookupError, match="broken"):
        await serve(asyncio.Event())
    assert ("error", part.lower()) in [(line["log_level"], line.get("work")) for line in lines]


async def test_a_worker_that_is_told_to_stop_ends_without_an_error(polling: Polling) -> None:
    stopping = asyncio.Event()
    asyncio.get_running_loop().call_later(0.05, stopping.set)
    await serve(stopping)
    assert polling.polled_under == "assignment", "it begins under the profile in force"


async def test_the_first_profile_is_waited_for_a_short_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(main, "FAULTS_POLL_SECONDS", 0.01)
    asked = 0

    async def away_at_first(_database: Database) -> FaultChange:
        nonlocal asked
        asked += 1
        if asked < 3:
            raise DatabaseUnavailable
        return NAMED

    monkeypatch.setattr(main.fault_profiles, "current", away_at_first)
    faults = ProfileFaultInjector(named_profile("none"))
    await main.know_faults(BOOKS, faults)
    assert (faults.profile.name, faults.profile.seed, asked) == ("assignment", 7, 3)


async def test_a_worker_starts_although_nobody_knows_the_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(main, "FIRST_FAULTS_SECONDS", 0.05)

    async def silent(_database: Database) -> FaultChange:
        await asyncio.Event().wait()
        return NAMED

    monkeypatch.setattr(main.fault_profiles, "current", silent)
    faults = ProfileFaultInjector(named_profile("none"))
    await main.know_faults(BOOKS, faults)
    assert faults.profile.name == "none"
