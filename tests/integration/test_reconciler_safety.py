"""The reconciler closes no healthy order: other clusters, second looks, the leader, and the stop."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
import pytest_asyncio
from structlog.testing import capture_logs
from temporalio.service import RPCError, RPCStatusCode

from db.database import Database
from db.domain import State, TemporalNamespace
from db.maintenance import reconciliation
from db.maintenance.reconciliation import ReconcilerState, adopt, reconcilers, register, resume
from db.orders import OrderRepository
from orchestrator.errors import TemporalReplaced, TemporalUnavailable
from orchestrator.messages.ids import order_workflow_id
from orchestrator.worker import orphan_search
from orchestrator.worker import reconciler as reconciler_module
from orchestrator.worker.reconciler import Reconciler
from tests.integration.reconciling import Temporal, new_reconciler
from tests.orders import TEMPORAL, OrderDriver, new_order

OTHER_CLUSTER = TemporalNamespace("another-cluster", TEMPORAL.name)
OTHER_NAMESPACE = TemporalNamespace(TEMPORAL.cluster_id, "another-namespace")


@pytest_asyncio.fixture(autouse=True)
async def no_orders(pool: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconciler_module, "CONFIRMATION_SECONDS", 0.0)
    monkeypatch.setattr(orphan_search, "STALE_AFTER", timedelta(0))
    await pool.execute("truncate reconcilers, orders, events cascade")
    for temporal in (TEMPORAL, OTHER_CLUSTER, OTHER_NAMESPACE):
        await register(pool, temporal)


@pytest.fixture
def temporal() -> Temporal:
    return Temporal()


@pytest.fixture
def reconciler(pool: Database, temporal: Temporal) -> Reconciler:
    return new_reconciler(pool, temporal)


async def orphans(driver: OrderDriver, temporal: Temporal, count: int) -> list[str]:
    """Open orders whose workflow is terminated."""
    order_ids = [await driver.open() for _ in range(count)]
    temporal.ended |= set(order_ids)
    return order_ids


async def state_of(pool: Database, temporal: TemporalNamespace = TEMPORAL) -> ReconcilerState:
    (state,) = [each for each in await reconcilers(pool) if each.temporal == temporal]
    return state


# --- Orders of another Temporal ------------------------------------------------------------------------


@pytest.mark.parametrize("handled_by", [OTHER_CLUSTER, OTHER_NAMESPACE])
async def test_an_order_of_another_cluster_or_namespace_is_not_closed(
    handled_by: TemporalNamespace, pool: Database, reconciler: Reconciler, temporal: Temporal
) -> None:
    driver = OrderDriver(OrderRepository(pool, "worker-1", handled_by), pool)
    (order_id,) = await orphans(driver, temporal, 1)
    assert [await reconciler.run_once() for _ in range(3)] == [0, 0, 0]
    assert temporal.started == []
    row = await driver.row(order_id)
    assert (row["temporal_cluster_id"], row["temporal_namespace"], row["state"]) == (
        handled_by.cluster_id, handled_by.name, "received",
    )  # fmt: skip


async def test_no_order_is_closed_after_the_server_was_replaced(
    driver: OrderDriver, reconciler: Reconciler, temporal: Temporal
) -> None:
    await orphans(driver, temporal, 1)
    temporal.cluster_id = "a-new-cluster"
    with pytest.raises(TemporalReplaced):
        await reconciler.run_once()
    assert temporal.started == []


async def test_a_closed_workflow_of_another_database_is_not_inserted(
    reconciler: Reconciler, temporal: Temporal
) -> None:
    order = new_order(database_id="5a2a9a55-6a2c-4c52-a7cf-5a0f8a1f5f4b")
    temporal.terminated(order_workflow_id(order.order_id), order)
    assert [await reconciler.run_once() for _ in range(2)] == [0, 0]


# --- The second look ------------------------------------------------------------------------------


async def test_an_order_is_closed_after_the_second_look_and_once(
    driver: OrderDriver, reconciler: Reconciler, temporal: Temporal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconciler_module, "CONFIRMATION_SECONDS", 60.0)
    (order_id,) = await orphans(driver, temporal, 1)
    never_inserted = new_order()
    temporal.terminated(order_workflow_id(never_inserted.order_id), never_inserted)
    assert [await reconciler.run_once() for _ in range(3)] == [0, 0, 0]
    now = reconciler_module.monotonic
    monkeypatch.setattr(reconciler_module, "monotonic", lambda: now() + 61)
    assert await reconciler.run_once() == 2
    assert set(temporal.started) == {order_id, never_inserted.order_id}
    assert await reconciler.run_once() == 0


@pytest.mark.parametrize("change", ["workflow runs", "address", "abort", "another cluster"])
async def test_an_order_that_changed_between_the_looks_is_not_closed(
    change: str,
    driver: OrderDriver,
    pool: Database,
    reconciler: Reconciler,
    temporal: Temporal,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reconciler_module, "CONFIRMATION_SECONDS", 0.2)
    (order_id,) = await orphans(driver, temporal, 1)
    assert await reconciler.run_once() == 0
    if change == "workflow runs":
        temporal.ended.clear()
    elif change == "abort":
        await driver.abort(order_id)
    elif change == "address":
        await driver.change_address(order_id)
    else:
        await pool.execute("update orders set temporal_cluster_id = 'x'")
    await asyncio.sleep(0.25)
    # The page is read again, so that an order with a new event becomes a new suspect.
    assert await reconciler.run_once() == 0
    assert temporal.started == []


async def test_an_order_that_is_being_reconciled_is_no_orphan(
    driver: OrderDriver, pool: Database, temporal: Temporal
) -> None:
    """For example while its refund fails for hours."""
    reconciler = new_reconciler(pool, temporal, max_orphans=3)
    for _ in range(3):
        await orphans(driver, temporal, 2)
        assert await reconciler.run_once() == 2
        reconciler._found_at.clear()
    assert (await state_of(pool)).stopped_at is None


# --- One leader -------------------------------------------------------------------------------------


async def test_one_worker_leads_and_another_replaces_it_when_its_lease_expires(
    driver: OrderDriver, pool: Database, temporal: Temporal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconciler_module, "LEASE", timedelta(minutes=1))
    first, second = new_reconciler(pool, temporal, "first"), new_reconciler(pool, temporal, "second")
    await first.run_once()
    await orphans(driver, temporal, 1)
    assert await second.run_once() == 0
    assert temporal.described == []
    assert (await state_of(pool)).leader == "first"
    await pool.execute("update reconcilers set leader_until = leader_until - interval '1 minute'")
    assert await second.run_once() == 1
    assert await first.run_once() == 0
    assert (await state_of(pool)).leader == "second"


async def test_a_worker_that_lost_its_lease_closes_no_order(
    driver: OrderDriver, pool: Database, reconciler: Reconciler, temporal: Temporal
) -> None:
    await orphans(driver, temporal, 1)
    look = reconciler._search.is_still_orphaned

    async def lose_the_lease(*arguments: Any) -> bool:
        await pool.execute("update reconcilers set leader = 'another worker'")
        return await look(*arguments)

    reconciler._search.is_still_orphaned = lose_the_lease  # type: ignore[method-assign]
    assert await reconciler.run_once() == 0
    assert temporal.started == []
    await pool.execute("update reconcilers set leader = 'worker-1'")
    reconciler._search.is_still_orphaned = look  # type: ignore[method-assign]
    assert await reconciler.run_once() == 1


async def test_the_reconcilers_of_two_namespaces_do_not_exclude_each_other(
    driver: OrderDriver, pool: Database, reconciler: Reconciler, temporal: Temporal
) -> None:
    await reconciliation.Reconciliation(pool, OTHER_CLUSTER, "stray").take_lease(timedelta(minutes=1))
    await orphans(driver, temporal, 1)
    assert await reconciler.run_once() == 1


# --- The stop ---------------------------------------------------------------------------------------


async def test_too_many_orphans_stop_the_reconciler_until_it_is_resumed(
    driver: OrderDriver, pool: Database, temporal: Temporal
) -> None:
    reconciler = new_reconciler(pool, temporal, max_orphans=3)
    order_ids = await orphans(driver, temporal, 4)
    with capture_logs() as lines:
        assert [await reconciler.run_once() for _ in range(3)] == [0, 0, 0]
        # The stop is stored, so a restarted worker and another leader do not continue either.
        await pool.execute("update reconcilers set leader = null")
        assert await new_reconciler(pool, temporal, "another", max_orphans=3).run_once() == 0
        await pool.execute("update reconcilers set leader = null")
    assert temporal.started == []
    state = await state_of(pool)
    assert state.stopped_at is not None
    assert (state.orphans, set(state.orphan_examples or [])) == (4, set(order_ids))
    stops = [line for line in lines if line["event"].startswith("reconciler is stopped")]
    assert [(line["log_level"], line["orphans"]) for line in stops] == [("error", 4)] * 2, "once a process"
    assert await resume(pool) == [TEMPORAL]
    assert await reconciler.run_once() == 4
    assert set(temporal.started) == set(order_ids)
    assert (await state_of(pool)).stopped_at is None


async def test_orphans_after_a_resume_are_counted_again(
    driver: OrderDriver, pool: Database, temporal: Temporal
) -> None:
    reconciler = new_reconciler(pool, temporal, max_orphans=3)
    await orphans(driver, temporal, 4)
    await reconciler.run_once()
    assert (await state_of(pool)).stopped_at is not None
    await resume(pool)
    later = await orphans(driver, temporal, 4)
    assert await reconciler.run_once() == 0
    assert (await state_of(pool)).orphans == 4
    assert temporal.started == []
    assert set((await state_of(pool)).orphan_examples or []) == set(later)


async def test_a_resume_holds_for_a_limited_time(
    driver: OrderDriver, pool: Database, temporal: Temporal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconciliation, "CONFIRMED_FOR", timedelta(0))
    reconciler = new_reconciler(pool, temporal, max_orphans=3)
    await orphans(driver, temporal, 4)
    await reconciler.run_once()
    await resume(pool)
    assert await reconciler.run_once() == 0
    assert (await state_of(pool)).stopped_at is not None


async def test_orphans_over_time_count_together_for_a_minute(
    driver: OrderDriver, pool: Database, temporal: Temporal, monkeypatch: pytest.MonkeyPatch
) -> None:
    reconciler = new_reconciler(pool, temporal, max_orphans=3)
    await orphans(driver, temporal, 3)
    assert await reconciler.run_once() == 3
    now = reconciler_module.monotonic
    monkeypatch.setattr(reconciler_module, "monotonic", lambda: now() + 61)
    await orphans(driver, temporal, 3)
    assert await reconciler.run_once() == 3
    await orphans(driver, temporal, 1)
    assert await reconciler.run_once() == 0
    assert (await state_of(pool)).stopped_at is not None


# --- Each order separately --------------------------------------------------------------------------


class Failures:
    def __init__(self, reconciler: Reconciler, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        monkeypatch.setattr(reconciler._search, "_on_failure", self._count)

    def _count(self) -> None:
        self.count += 1


@pytest.mark.parametrize(
    "error",
    [
        ValueError("malformed"),
        RPCError("data loss", RPCStatusCode.DATA_LOSS, b""),
        # A huge history.
        RPCError("too slow", RPCStatusCode.DEADLINE_EXCEEDED, b""),
    ],
)
async def test_an_unreadable_workflow_does_not_stop_the_others(
    error: Exception,
    driver: OrderDriver,
    reconciler: Reconciler,
    temporal: Temporal,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    failures = Failures(reconciler, monkeypatch)
    bad, good = await orphans(driver, temporal, 2)
    bad_new, good_new = new_order(), new_order()
    for order in (bad_new, good_new):
        temporal.terminated(order_workflow_id(order.order_id), order)
    temporal.failures = {
        order_workflow_id(bad): error, order_workflow_id(bad_new.order_id): error,
    }  # fmt: skip
    with capture_logs() as lines:
        assert await reconciler.run_once() == 2
    assert set(temporal.started) == {good, good_new.order_id}
    assert failures.count == 2
    named = {line.get("order_id") for line in lines if line["event"] == "order cannot be reconciled"}
    assert named == {bad, bad_new.order_id}


async def test_an_unavailable_server_ends_the_pass(
    driver: OrderDriver, reconciler: Reconciler, temporal: Temporal, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = Failures(reconciler, monkeypatch)
    order_ids = await orphans(driver, temporal, 3)
    unavailable = RPCError("unavailable", RPCStatusCode.UNAVAILABLE, b"")
    temporal.cluster_error = unavailable
    temporal.failures = {order_workflow_id(order_id): unavailable for order_id in order_ids}
    with pytest.raises(TemporalUnavailable):
        await reconciler.run_once()
    temporal.cluster_error, temporal.failures = None, {}
    assert await reconciler.run_once() == 3
    assert failures.count == 0


# --- Orders of a lost cluster -----------------------------------------------------------------------


async def adopted(pool: Database, lost: TemporalNamespace = OTHER_CLUSTER) -> int:
    return await adopt(pool, lost, TEMPORAL)


async def test_orders_of_a_lost_cluster_are_closed_after_they_are_adopted(
    pool: Database, temporal: Temporal
) -> None:
    lost_driver = OrderDriver(OrderRepository(pool, "worker-1", OTHER_CLUSTER), pool)
    order_ids = await orphans(lost_driver, temporal, 4)
    reconciler = new_reconciler(pool, temporal, max_orphans=3)
    assert await reconciler.run_once() == 0
    assert (await state_of(pool, OTHER_CLUSTER)).open_orders == 4
    assert await adopted(pool) == 4
    assert await adopted(pool) == 0
    assert await reconciler.run_once() == 4
    assert set(temporal.started) == set(order_ids)


async def test_orders_of_a_cluster_with_a_leader_are_not_adopted(pool: Database, temporal: Temporal) -> None:
    lost_driver = OrderDriver(OrderRepository(pool, "worker-1", OTHER_CLUSTER), pool)
    await orphans(lost_driver, temporal, 1)
    await reconciliation.Reconciliation(pool, OTHER_CLUSTER, "alive").take_lease(timedelta(minutes=1))
    assert await adopted(pool) == 0
    assert (await state_of(pool, OTHER_CLUSTER)).open_orders == 1


async def test_only_open_orders_are_adopted(pool: Database) -> None:
    lost_driver = OrderDriver(OrderRepository(pool, "worker-1", OTHER_CLUSTER), pool)
    finished = await lost_driver.carry_to(State.COMPLETED)
    await lost_driver.open()
    assert await adopted(pool) == 1
    assert (await lost_driver.row(finished))["temporal_cluster_id"] == OTHER_CLUSTER.cluster_id
