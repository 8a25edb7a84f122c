"""The reconciler finishes orders whose workflow was terminated."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from structlog.testing import capture_logs
from temporalio.api.common.v1 import Payload
from temporalio.api.history.v1 import HistoryEvent
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowHistory
from temporalio.converter import DataConverter, DefaultPayloadConverter
from temporalio.service import RPCError, RPCStatusCode

from db.database import Database
from orchestrator.api.admission import Admission
from orchestrator.api.order_service import OrderService
from orchestrator.embedded import Stack
from orchestrator.errors import DatabaseUnavailable, PayloadUnreadable, TemporalUnavailable
from orchestrator.messages import CancelOrder, order_workflow_id
from orchestrator.settings import Settings
from orchestrator.temporal_client import connect
from orchestrator.worker import reconciler as reconciler_module
from orchestrator.worker.reconciler import FIRST_SEARCH_WINDOW, SEARCH_OVERLAP, Reconciler
from tests.integration.test_api_outages import stopped
from tests.live import LiveApi, eventually
from tests.orders import OrderDriver, new_order


def terminate(settings: Settings, order_id: str) -> None:
    async def terminated() -> None:
        client = await connect(settings)
        await client.get_workflow_handle(order_workflow_id(order_id)).terminate("by an operator")

    asyncio.run(terminated())


# --- In a running stack -------------------------------------------------------------------------------


@pytest.mark.stack
def test_an_order_terminated_in_review_fails(live: LiveApi, live_stack: Stack) -> None:
    order_id = live.start(review="manual")
    live.in_state(order_id, "in_review")
    terminate(live_stack.settings, order_id)
    outcome = live.finished(order_id)
    assert (outcome["status"], outcome["reason"]) == ("failed", "terminated")
    kinds = [event["kind"] for event in live.history(order_id)]
    assert kinds.count("abort") == 1
    assert kinds[-1] == "outcome"


@pytest.mark.stack
def test_an_order_terminated_before_its_insert_fails(live: LiveApi, live_stack: Stack) -> None:
    with stopped(live_stack, "order-worker-1"):
        order_id = live.start()
        terminate(live_stack.settings, order_id)
    # It is in neither the order database nor a running workflow until the reconciler finds it.
    eventually(lambda: live.http.get(f"/orders/{order_id}/status").status_code == 200)
    outcome = live.finished(order_id)
    assert (outcome["status"], outcome["reason"]) == ("failed", "terminated")


# --- One pass ---------------------------------------------------------------------------------


@dataclass
class Temporal:
    """A stub on which every workflow runs except those in `ended`. It records its calls."""

    data_converter = DataConverter.default
    ended: set[str] = field(default_factory=set)
    reset: set[str] = field(default_factory=set)
    """Workflows whose first run has ended and whose second one runs."""

    unopened: list[Any] = field(default_factory=list)
    inputs: dict[str, list[Payload]] = field(default_factory=dict)
    described: list[str] = field(default_factory=list)
    queries: list[str] = field(default_factory=list)
    started: list[str] = field(default_factory=list)
    start_error: Exception | None = None

    def get_workflow_handle(self, workflow_id: str, *, run_id: str | None = None) -> Any:
        async def describe() -> Any:
            order_id = workflow_id.removeprefix("order-")
            self.described.append(order_id)
            has_ended = order_id in self.ended or (run_id is not None and order_id in self.reset)
            status = WorkflowExecutionStatus.TERMINATED if has_ended else WorkflowExecutionStatus.RUNNING
            return SimpleNamespace(status=status)

        async def fetch_history() -> WorkflowHistory:
            started, ended = HistoryEvent(), HistoryEvent()
            payloads = self.inputs[workflow_id]
            started.workflow_execution_started_event_attributes.input.payloads.extend(payloads)
            ended.workflow_execution_terminated_event_attributes.reason = "by an operator"
            return WorkflowHistory(workflow_id, [started, ended])

        return SimpleNamespace(describe=describe, fetch_history=fetch_history)

    def terminated(self, workflow_id: str, *inputs: object) -> None:
        """Add a workflow that was terminated before a worker processed it."""
        self.ended.add(workflow_id.removeprefix("order-"))
        self.inputs[workflow_id] = DefaultPayloadConverter().to_payloads(inputs)
        status = WorkflowExecutionStatus.TERMINATED
        self.unopened.append(
            SimpleNamespace(id=workflow_id, run_id=workflow_id, status=status, start_time=datetime.now(UTC))
        )

    async def list_workflows(self, query: str) -> AsyncIterator[Any]:
        self.queries.append(query)
        for execution in self.unopened:
            yield execution

    async def start_workflow(self, _workflow: str, request: Any, **_: Any) -> None:
        if self.start_error is not None:
            raise self.start_error
        self.started.append(request.order_id)

    @property
    def searched_since(self) -> list[datetime]:
        return [datetime.fromisoformat(query.rsplit("'", 2)[1]) for query in self.queries]


@pytest.fixture
def temporal() -> Temporal:
    return Temporal()


@pytest.fixture
def reconciler(pool: Database, temporal: Temporal, monkeypatch: pytest.MonkeyPatch) -> Reconciler:
    monkeypatch.setattr(reconciler_module, "STALE_AFTER_SECONDS", 0.0)
    monkeypatch.setattr(reconciler_module, "PAGE_SIZE", 3)
    return Reconciler(pool, temporal, "order-tq")  # type: ignore[arg-type]


async def test_a_lost_order_is_found_behind_pages_of_healthy_ones(
    driver: OrderDriver, reconciler: Reconciler, temporal: Temporal
) -> None:
    # All have the same deadline, so that they are sorted by id.
    accepted_at = datetime.now(UTC) - timedelta(seconds=5)
    order_ids = sorted([await driver.open(accepted_at=accepted_at) for _ in range(7)])
    lost = order_ids[-1]
    temporal.ended = {lost}
    assert [await reconciler.run_once() for _ in range(3)] == [0, 0, 1]
    assert temporal.started == [lost]
    assert temporal.described == order_ids
    # The first page follows the last one.
    await reconciler.run_once()
    assert temporal.described[7:] == order_ids[:3]


async def test_each_pass_searches_from_the_last_successful_one(
    reconciler: Reconciler, temporal: Temporal, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = datetime.now(UTC)
    await reconciler.run_once()
    await reconciler.run_once()
    first, second = temporal.searched_since
    assert first >= before - FIRST_SEARCH_WINDOW
    assert before - SEARCH_OVERLAP <= second <= datetime.now(UTC) - SEARCH_OVERLAP

    async def unavailable(*_: object) -> None:
        raise DatabaseUnavailable

    with monkeypatch.context() as patched:
        patched.setattr(reconciler_module.audit_database, "known_orders", unavailable)
        for _ in range(2):
            with pytest.raises(DatabaseUnavailable):
                await reconciler.run_once()
    await reconciler.run_once()
    *_, third, fourth, fifth = temporal.searched_since
    assert third == fourth == fifth > second


async def test_an_order_whose_reconciliation_could_not_start_is_retried(
    reconciler: Reconciler, temporal: Temporal, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def as_accepted(_self: Reconciler, order_id: str, _execution: object) -> Any:
        return SimpleNamespace(order_id=order_id, cause="the workflow is terminated")

    monkeypatch.setattr(Reconciler, "_never_inserted", as_accepted)
    temporal.unopened = [SimpleNamespace(id="order-never-opened", run_id="run")]
    temporal.start_error = RPCError("unavailable", RPCStatusCode.UNAVAILABLE, b"")
    with pytest.raises(TemporalUnavailable):
        await reconciler.run_once()
    temporal.start_error = None
    assert await reconciler.run_once() == 1
    assert await reconciler.run_once() == 0
    assert temporal.started == ["never-opened"]


async def test_an_encrypted_order_is_retried_until_its_key_is_known(
    reconciler: Reconciler, temporal: Temporal, monkeypatch: pytest.MonkeyPatch
) -> None:
    has_key = False

    async def as_accepted(_self: Reconciler, order_id: str, _execution: object) -> Any:
        if order_id == "encrypted" and not has_key:
            raise PayloadUnreadable
        return SimpleNamespace(order_id=order_id, cause="the workflow is terminated")

    monkeypatch.setattr(Reconciler, "_never_inserted", as_accepted)
    temporal.unopened = [
        SimpleNamespace(id=f"order-{name}", run_id=name) for name in ("encrypted", "never-opened")
    ]
    assert [await reconciler.run_once() for _ in range(3)] == [1, 0, 0]
    # The search window does not advance without it.
    first, *_, last = temporal.searched_since
    assert last - first < SEARCH_OVERLAP
    has_key = True
    assert await reconciler.run_once() == 1
    assert temporal.started == ["never-opened", "encrypted"]


async def test_a_workflow_without_a_valid_order_is_logged_and_skipped(
    reconciler: Reconciler, temporal: Temporal
) -> None:
    order = new_order()
    temporal.terminated("order-without-input")
    temporal.terminated("order-of-nonsense", "nonsense")
    temporal.terminated("order-of-half-an-order", {"order_id": "of-half-an-order"})
    temporal.terminated("order-empty", replace(order, order_id="empty", items=[]))
    temporal.terminated("order-of-another-id", order)
    temporal.terminated(order_workflow_id(order.order_id), order)
    with capture_logs() as lines:
        assert [await reconciler.run_once() for _ in range(2)] == [1, 0]
    assert temporal.started == [order.order_id]
    named = [line["workflow_id"] for line in lines if line["event"] == "workflow input is not an order"]
    assert named == [each.id for each in temporal.unopened[:-1]]


async def test_an_order_whose_workflow_was_reset_is_left_to_the_later_run(
    driver: OrderDriver, reconciler: Reconciler, temporal: Temporal
) -> None:
    temporal.reset = {await driver.open(accepted_at=datetime.now(UTC) - timedelta(hours=1))}
    not_inserted = new_order()
    temporal.terminated(order_workflow_id(not_inserted.order_id), not_inserted)
    temporal.ended.clear()
    assert await reconciler.run_once() == 0
    assert temporal.reset <= set(temporal.described)


async def test_a_failed_pass_is_counted_and_followed_by_others(
    reconciler: Reconciler, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes, failures = 0, 0
    continued = asyncio.Event()

    async def run_once(_self: Reconciler, *, search: bool) -> int:
        nonlocal passes
        passes += 1
        if passes == 1:
            raise LookupError("unexpected")
        continued.set()
        return 0

    def failed() -> None:
        nonlocal failures
        failures += 1

    monkeypatch.setattr(Reconciler, "run_once", run_once)
    monkeypatch.setattr(reconciler_module, "INTERVAL_SECONDS", 0.0)
    monkeypatch.setattr(reconciler._metrics, "reconciler_failed", failed)
    with capture_logs() as lines:
        running = asyncio.create_task(reconciler.run())
        async with asyncio.timeout(5):
            await continued.wait()
        running.cancel()
    assert failures == 1
    assert [(line["event"], line["log_level"]) for line in lines] == [("reconciler pass failed", "error")]


# --- Unknown namespace ------------------------------------------------------


@pytest.mark.stack
async def test_an_unknown_namespace_is_an_outage_and_not_a_lost_workflow(
    live: LiveApi, live_stack: Stack, driver: OrderDriver, monkeypatch: pytest.MonkeyPatch, pool: Database
) -> None:
    settings = live_stack.settings.model_copy(update={"configured_temporal_namespace": "not-yet"})
    client: Client = await connect(settings)
    monkeypatch.setattr(reconciler_module, "STALE_AFTER_SECONDS", 0.0)
    await driver.open()
    # Temporal passes at the form of a run's id before it passes for the namespace.
    await pool.execute(
        "update orders set workflow_run_id = %(run)s where state < 'completed'", {"run": str(uuid4())}
    )
    with pytest.raises(TemporalUnavailable):
        await Reconciler(pool, client, "order-tq").run_once()
    service = OrderService(settings, pool, client, Admission(settings, pool))
    with pytest.raises(TemporalUnavailable):
        await service.workflow_start("order")
    with pytest.raises(TemporalUnavailable):
        await service.send_request("order", CancelOrder("r", "c"))
