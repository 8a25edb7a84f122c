"""The reconciler finishes orders whose workflow was terminated."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
import pytest_asyncio
from structlog.testing import capture_logs
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from db.database import Database
from db.maintenance.reconciliation import register
from orchestrator.api.admission import Admission
from orchestrator.api.order_service import OrderService
from orchestrator.embedded import Stack
from orchestrator.errors import DatabaseUnavailable, PayloadUnreadable, TemporalUnavailable
from orchestrator.messages.ids import order_workflow_id
from orchestrator.messages.requests import CancelOrder
from orchestrator.settings import Settings
from orchestrator.temporal.client import connect
from orchestrator.worker import orphan_search
from orchestrator.worker import reconciler as reconciler_module
from orchestrator.worker.orphan_search import FIRST_SEARCH_WINDOW, SEARCH_OVERLAP
from orchestrator.worker.reconciler import Reconciler
from tests.integration.reconciling import Temporal, new_reconciler
from tests.integration.test_api_outages import stopped
from tests.live import LiveApi, eventually
from tests.orders import TEMPORAL, OrderDriver, new_order


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


@pytest.fixture
def temporal() -> Temporal:
    return Temporal()


@pytest_asyncio.fixture
async def reconciler(pool: Database, temporal: Temporal, monkeypatch: pytest.MonkeyPatch) -> Reconciler:
    """The leader. It takes the second look in the same pass."""
    monkeypatch.setattr(reconciler_module, "CONFIRMATION_SECONDS", 0.0)
    monkeypatch.setattr(orphan_search, "STALE_AFTER", timedelta(0))
    monkeypatch.setattr(orphan_search, "PAGE_SIZE", 3)
    await pool.execute("truncate reconcilers")
    await register(pool, TEMPORAL)
    return new_reconciler(pool, temporal)


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
    # Two looks at the orphan.
    assert temporal.described == [*order_ids, lost]
    # The first page follows the last one.
    await reconciler.run_once()
    assert temporal.described[8:] == order_ids[:3]


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
        patched.setattr(orphan_search, "known_orders", unavailable)
        for _ in range(2):
            with pytest.raises(DatabaseUnavailable):
                await reconciler.run_once()
    await reconciler.run_once()
    *_, third, fourth, fifth = temporal.searched_since
    assert third == fourth == fifth > second


async def test_an_order_whose_reconciliation_could_not_start_is_retried(
    reconciler: Reconciler, temporal: Temporal
) -> None:
    order = new_order()
    temporal.terminated(order_workflow_id(order.order_id), order)
    temporal.start_error = RPCError("unavailable", RPCStatusCode.UNAVAILABLE, b"")
    temporal.cluster_error = temporal.start_error
    with pytest.raises(TemporalUnavailable):
        await reconciler.run_once()
    temporal.cluster_error = None
    assert await reconciler.run_once() == 0
    temporal.start_error = None
    assert await reconciler.run_once() == 1
    assert await reconciler.run_once() == 0
    assert temporal.started == [order.order_id]


async def test_an_encrypted_order_is_retried_until_its_key_is_known(
    reconciler: Reconciler, temporal: Temporal
) -> None:
    encrypted, other = new_order(), new_order()
    for order in (encrypted, other):
        temporal.terminated(order_workflow_id(order.order_id), order)
    temporal.failures = {order_workflow_id(encrypted.order_id): PayloadUnreadable()}
    assert [await reconciler.run_once() for _ in range(3)] == [1, 0, 0]
    # The search window does not advance without it.
    first, *_, last = temporal.searched_since
    assert last - first < SEARCH_OVERLAP
    temporal.failures = {}
    assert await reconciler.run_once() == 1
    assert temporal.started == [other.order_id, encrypted.order_id]


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


# --- Unknown namespace ------------------------------------------------------


@pytest.mark.stack
async def test_an_unknown_namespace_is_an_outage_and_not_a_lost_workflow(
    live: LiveApi, live_stack: Stack, driver: OrderDriver, monkeypatch: pytest.MonkeyPatch, pool: Database
) -> None:
    settings = live_stack.settings.model_copy(update={"configured_temporal_namespace": "not-yet"})
    client: Client = await connect(settings)
    monkeypatch.setattr(orphan_search, "STALE_AFTER", timedelta(0))
    await register(pool, TEMPORAL)
    await driver.open()
    # Temporal passes at the form of a run's id before it passes for the namespace.
    await pool.execute(
        "update orders set workflow_run_id = %(run)s where state < 'completed'", {"run": str(uuid4())}
    )
    with pytest.raises(TemporalUnavailable):
        await new_reconciler(pool, client).run_once()
    service = OrderService(settings, pool, client, Admission(settings, pool))
    with pytest.raises(TemporalUnavailable):
        await service.workflow_start("order")
    with pytest.raises(TemporalUnavailable):
        await service.send_request("order", CancelOrder("r", "c"))
