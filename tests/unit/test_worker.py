"""The worker process: fault profile, background tasks, shutdown and span export."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import nullcontext, suppress
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from structlog.testing import capture_logs
from temporalio.common import MetricMeter
from temporalio.runtime import Runtime

from db.database import Database
from db.domain import TemporalNamespace
from db.fault_profiles import FaultChange
from orchestrator import background
from orchestrator.errors import DatabaseUnavailable, TemporalReplaced
from orchestrator.gateways.fault_injection import FaultInjector, named_profile
from orchestrator.observability import tracing
from orchestrator.settings import Settings
from orchestrator.worker import WorkerKind, fault_profile_polling, main
from tests.orders import TEMPORAL

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

    async def connect(*_: object, **__: object) -> None:
        return None

    async def run_forever(*_: object) -> None:
        await asyncio.Event().wait()

    async def current(_database: Database) -> FaultChange:
        return ACTIVE_PROFILE

    async def claim(*_: object) -> str:
        return "database"

    async def register(*_: object) -> None:
        return None

    async def temporal_namespace(_client: object) -> TemporalNamespace:
        return TEMPORAL

    monkeypatch.setattr(main, "Database", FakeDatabase)
    monkeypatch.setattr(main, "_connect", connect)
    monkeypatch.setattr(main, "wait_for_task_queues", claim)
    monkeypatch.setattr(main, "register", register)
    monkeypatch.setattr(main, "temporal_namespace", temporal_namespace)
    monkeypatch.setattr(main.ActivitySet, "create", lambda *_: None)
    monkeypatch.setattr(main, "FaultInjector", lambda _profile: injector)
    monkeypatch.setattr(main, "order_worker", lambda *_, **__: worker)
    monkeypatch.setattr(main, "compensation_worker", lambda *_, **__: FakeWorker(injector))
    monkeypatch.setattr(main.EventRetention, "run", run_forever)
    monkeypatch.setattr(main.Reconciler, "run", run_forever)
    monkeypatch.setattr(fault_profile_polling.fault_profiles, "current", current)
    return worker


async def serve(stopping: asyncio.Event) -> None:
    runtime = cast(Runtime, SimpleNamespace(metric_meter=MetricMeter.noop))
    async with asyncio.timeout(60):
        await main._serve(Settings(events_keep_days=90), WorkerKind.ORDER, "worker", stopping, runtime, None)


@pytest.fixture
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "FIRST_PAUSE_SECONDS", 0.0)


@pytest.mark.parametrize(
    ("place", "method", "name"),
    [
        (main.Reconciler, "run", "reconciler"),
        (main.EventRetention, "run", "event retention"),
        (main.WorkerMetrics, "update_memory", "memory gauge"),
        (main, "poll_fault_profile", "fault profile"),
    ],
)
@pytest.mark.usefixtures("no_pause")
async def test_a_failed_background_task_is_logged_counted_and_started_again(
    place: Any, method: str, name: str, worker: FakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts, failures = 0, 0
    stopping = asyncio.Event()

    async def fail(*_: Any) -> None:
        nonlocal starts
        starts += 1
        if starts < 3:
            raise LookupError("broken")
        stopping.set()
        await asyncio.Event().wait()

    def failed(_self: Any) -> None:
        nonlocal failures
        failures += 1

    monkeypatch.setattr(place, method, fail)
    monkeypatch.setattr(main.WorkerMetrics, "background_task_failed", failed)
    with capture_logs() as lines:
        await serve(stopping)
    assert (starts, failures) == (3, 2)
    assert [(line["log_level"], line["task"]) for line in lines if "task" in line] == [("error", name)] * 2


@pytest.mark.parametrize(("carrier", "reads"), [("simulated", 1), ("http", 0)])
async def test_only_workers_of_simulated_gateways_read_fault_profiles(
    carrier: str, reads: int, worker: FakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopping, loaded, injectors = asyncio.Event(), [], []

    async def load(*_: object) -> None:
        loaded.append("profile")

    def create(_repository: object, injector: object, *_: object) -> None:
        injectors.append(injector)
        stopping.set()

    monkeypatch.setenv("CARRIER_GATEWAY", carrier)
    monkeypatch.setenv("HTTP_GATEWAY_URL", "http://127.0.0.1:1")
    monkeypatch.setattr(main, "load_fault_profile", load)
    monkeypatch.setattr(main.ActivitySet, "create", create)
    await serve(stopping)
    assert len(loaded) == reads
    assert [injector is not None for injector in injectors] == [reads == 1]


async def test_the_pause_after_failures_grows_and_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "LONGEST_PAUSE_SECONDS", 5.0)
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 5:
            raise asyncio.CancelledError

    async def fail() -> None:
        raise LookupError("broken")

    monkeypatch.setattr(background.asyncio, "sleep", sleep)  # type: ignore[attr-defined]
    with capture_logs(), pytest.raises(asyncio.CancelledError):
        await background.keep_running("task", fail, lambda: None)
    assert pauses == [1.0, 2.0, 4.0, 5.0, 5.0]


@pytest.mark.usefixtures("no_pause")
async def test_an_unwritable_liveness_file_does_not_end_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    touches = 0
    continued = asyncio.Event()

    async def fail(_file: Path) -> None:
        nonlocal touches
        touches += 1
        if touches == 3:
            continued.set()
        raise OSError("no space left on device")

    async def serve_until_continued(*_: object) -> None:
        async with asyncio.timeout(60):
            await continued.wait()

    monkeypatch.setattr(main, "keep_touching", fail)
    monkeypatch.setattr(main, "_set_up_and_serve", serve_until_continued)
    monkeypatch.setattr(main.logs, "configure", lambda *_: None)
    monkeypatch.setattr(asyncio.get_running_loop(), "add_signal_handler", lambda *_: None)
    with capture_logs():
        await main.run(Settings(liveness_file=Path("alive")), WorkerKind.ORDER)
    assert continued.is_set()


async def test_a_failed_worker_ends_the_process_with_its_error(
    worker: FakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail() -> None:
        raise LookupError("polling failed")

    monkeypatch.setattr(worker, "run", fail)
    with pytest.raises(LookupError, match="polling failed"):
        await serve(asyncio.Event())


@pytest.mark.usefixtures("worker")
async def test_a_worker_ends_when_another_cluster_responds(monkeypatch: pytest.MonkeyPatch) -> None:
    responses = [
        TEMPORAL,
        DatabaseUnavailable(),
        LookupError("broken"),
        TemporalNamespace("another", TEMPORAL.name),
    ]

    async def temporal_namespace(_client: object) -> TemporalNamespace:
        response = responses.pop(0)
        if isinstance(response, Exception):
            raise response
        return response

    monkeypatch.setattr(main, "CLUSTER_CHECK_SECONDS", 0.0)
    monkeypatch.setattr(main, "temporal_namespace", temporal_namespace)
    with pytest.raises(TemporalReplaced, match=f"cluster another; it was {TEMPORAL.cluster_id}"):
        await serve(asyncio.Event())


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


async def test_an_unexpected_error_of_the_first_fault_profile_does_not_prevent_the_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def fail(_database: Database) -> FaultChange:
        raise LookupError("broken")

    monkeypatch.setattr(fault_profile_polling.fault_profiles, "current", fail)
    injector = FaultInjector(named_profile("none"))
    with capture_logs() as lines:
        await fault_profile_polling.load_fault_profile(DATABASE, injector)
    assert [line["event"] for line in lines] == ["fault profile is unknown at the start"]


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
