"""The worker process: fault profile, background tasks, shutdown and span export."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import nullcontext, suppress
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
from orchestrator.gateways.fault_injection import FaultInjector, named_profile
from orchestrator.observability import tracing
from orchestrator.settings import Settings
from orchestrator.worker import WorkerKind, fault_profile_polling, main

MAX_STOP_SECONDS = 3.0
DATABASE = cast(Database, None)
ACTIVE_PROFILE = FaultChange("assignment", 7, named_profile("assignment").to_json(), datetime.now(UTC))


class FakeDatabase:
    """A database pool that never connects."""

    def __init__(self, *_: object, **__: object) -> None: ...

    async def __aenter__(self) -> "FakeDatabase":
        return self

    async def __aexit__(self, *_: object) -> None:
        return None


class FakeWorker:
    """A Temporal worker that runs until it is shut down."""

    def __init__(self, injector: FaultInjector) -> None:
        self.injector = injector
        self.profile_at_start: str | None = None
        self._shut_down = asyncio.Event()

    async def run(self) -> None:
        self.profile_at_start = self.injector.profile.name
        await self._shut_down.wait()

    async def shutdown(self) -> None:
        self._shut_down.set()


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> FakeWorker:
    """The fake worker that `main._serve` runs, without Temporal and PostgreSQL."""
    injector = FaultInjector(named_profile("none"))
    worker = FakeWorker(injector)

    async def connect(*_: object) -> None:
        return None

    async def run_forever(*_: object) -> None:
        await asyncio.Event().wait()

    async def current(_database: Database) -> FaultChange:
        return ACTIVE_PROFILE

    monkeypatch.setattr(main, "Database", FakeDatabase)
    monkeypatch.setattr(main, "_connect", connect)
    monkeypatch.setattr(main, "simulated_gateways", lambda _database: None)
    monkeypatch.setattr(main.ActivitySet, "create", lambda *_: None)
    monkeypatch.setattr(main, "FaultInjector", lambda _profile: injector)
    monkeypatch.setattr(main, "order_worker", lambda *_, **__: worker)
    monkeypatch.setattr(main.EventRetention, "run", run_forever)
    monkeypatch.setattr(main.Reconciler, "run", run_forever)
    monkeypatch.setattr(fault_profile_polling.fault_profiles, "current", current)
    return worker


async def serve(stopping: asyncio.Event) -> None:
    runtime = cast(Runtime, SimpleNamespace(metric_meter=MetricMeter.noop))
    async with asyncio.timeout(5):
        await main._serve(Settings(events_keep_days=90), WorkerKind.ORDER, "worker", stopping, runtime, None)


@pytest.mark.parametrize(
    ("background", "name"), [("Reconciler", "reconciler"), ("EventRetention", "event retention")]
)
async def test_a_failed_background_task_ends_the_worker_with_its_error(
    background: str, name: str, worker: FakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(_self: Any) -> None:
        raise LookupError("broken")

    monkeypatch.setattr(getattr(main, background), "run", fail)
    with capture_logs() as lines, pytest.raises(LookupError, match="broken"):
        await serve(asyncio.Event())
    assert ("error", name) in [(line["log_level"], line.get("task")) for line in lines]


async def test_a_stopped_worker_ends_without_an_error(worker: FakeWorker) -> None:
    stopping = asyncio.Event()
    asyncio.get_running_loop().call_later(0.05, stopping.set)
    await serve(stopping)
    assert worker.profile_at_start == "assignment", "the active fault profile is loaded before the first poll"


async def test_loading_the_fault_profile_retries_while_the_database_is_unavailable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fault_profile_polling, "POLL_SECONDS", 0.01)
    calls = 0

    async def unavailable_at_first(_database: Database) -> FaultChange:
        nonlocal calls
        calls += 1
        if calls < 3:
            raise DatabaseUnavailable
        return ACTIVE_PROFILE

    monkeypatch.setattr(fault_profile_polling.fault_profiles, "current", unavailable_at_first)
    injector = FaultInjector(named_profile("none"))
    await fault_profile_polling.load_fault_profile(DATABASE, injector)
    assert (injector.profile.name, injector.profile.seed, calls) == ("assignment", 7, 3)


async def test_loading_the_fault_profile_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fault_profile_polling, "FIRST_PROFILE_TIMEOUT_SECONDS", 0.05)

    async def never(_database: Database) -> FaultChange:
        await asyncio.Event().wait()
        return ACTIVE_PROFILE

    monkeypatch.setattr(fault_profile_polling.fault_profiles, "current", never)
    injector = FaultInjector(named_profile("none"))
    await fault_profile_polling.load_fault_profile(DATABASE, injector)
    assert injector.profile.name == "none"


# --- Span export during shutdown ------------------------------------------------------------------------


async def count_exports(monkeypatch: pytest.MonkeyPatch, serve: Callable[..., Awaitable[None]]) -> int:
    """Run a worker with `serve`, cancel it, and return the number of span exports."""
    exports = 0

    def close() -> None:
        nonlocal exports
        exports += 1

    monkeypatch.setattr(main, "_serve", serve)
    monkeypatch.setattr(main, "measured_runtime", lambda *_: nullcontext())
    monkeypatch.setattr(main.Tracing, "of", lambda *_: SimpleNamespace(close=close))
    serving = asyncio.create_task(
        main._set_up_and_serve(Settings(), WorkerKind.ORDER, "worker-1", asyncio.Event())
    )
    await asyncio.sleep(0)
    serving.cancel()
    with suppress(asyncio.CancelledError, RuntimeError):
        await serving
    return exports


async def done(*_: object) -> None:
    return None


async def failed(*_: object) -> None:
    raise RuntimeError("a background task has failed")


async def running(*_: object) -> None:
    await asyncio.Event().wait()


@pytest.mark.parametrize(("serve", "exports"), [(done, 1), (failed, 1), (running, 0)])
async def test_spans_are_exported_during_shutdown_unless_the_worker_is_cancelled(
    monkeypatch: pytest.MonkeyPatch, serve: Callable[..., Awaitable[None]], exports: int
) -> None:
    assert await count_exports(monkeypatch, serve) == exports


def test_a_worker_stops_within_three_seconds_with_or_without_the_export() -> None:
    assert main.STOP_SECONDS + tracing.CLOSE_SECONDS < MAX_STOP_SECONDS
    assert main.STOP_SECONDS + main.CANCEL_SECONDS < MAX_STOP_SECONDS
