"""Which orders the audit of a run checks: also those that are not, or not yet, in the order database."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from temporalio import client as temporal
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.workflowservice.v1 import ResetWorkflowExecutionRequest
from temporalio.client import Client

from db import runs
from db.database import Database
from db.domain import ReviewMode, State
from db.orders import OrderRepository
from orchestrator.audit import audit, temporal_comparison
from orchestrator.audit.workflow_list import CLOSED, RUNNING, list_filter
from orchestrator.errors import ExitCode, RunUnknown
from orchestrator.gateways.fault_injection import FaultInjector, named_profile
from orchestrator.messages.ids import order_workflow_id, reconcile_workflow_id
from orchestrator.messages.orders import ReconcileRequest
from orchestrator.messages.requests import ApproveOrder
from orchestrator.settings import Settings
from orchestrator.temporal.search_attributes import of_run, run_filter
from orchestrator.workflows.order import OrderWorkflow
from tests.command_line import CommandLine
from tests.orders import TEMPORAL, OrderDriver, new_order
from tests.shop import POLL_SECONDS, VISIBLE_SECONDS, Shop, open_shop

TASK_COMPLETED = "workflow_task_completed_event_attributes"


async def until_in_review(shop: Shop, order_id: str) -> None:
    handle = shop.client.get_workflow_handle(order_workflow_id(order_id))
    while True:
        row = await shop.row(order_id)
        if row is not None and row["state"] == State.IN_REVIEW:
            return
        # The query returns after the workflow's next task, so this loop needs no sleep.
        await handle.query("status")


async def until_listed(client: Client, workflow_id: str) -> None:
    """Wait until Temporal lists the workflow, a moment after its start."""
    async with asyncio.timeout(VISIBLE_SECONDS):
        while True:
            if [each async for each in client.list_workflows(f"WorkflowId = '{workflow_id}'")]:
                return
            await asyncio.sleep(POLL_SECONDS)


async def test_an_unknown_run_is_an_error_and_not_clean(
    client: Client, pool: Database, command_line: CommandLine
) -> None:
    with pytest.raises(RunUnknown, match="there is no run typo"):
        await audit(pool, client, "typo")
    exit_code, printed = await command_line.run("audit", "--run", "typo")
    assert exit_code == ExitCode.WRONG_USAGE
    assert "there is no run typo" in printed
    assert len(printed.strip().splitlines()) == 1


async def test_a_stored_run_without_orders_is_known(
    client: Client, pool: Database, settings: Settings
) -> None:
    run_id = f"recorded-{uuid4().hex[:8]}"
    run = runs.NewRun(run_id, "steady", {}, [], "none", 0, datetime.now(UTC), None, {})
    assert runs.open_run(settings.order_database_url, run)
    report = await audit(pool, client, run_id)
    assert (report.is_clean, report.finished, report.workflows_checked) == (True, 0, 0)


async def test_a_run_is_known_before_a_worker_has_its_order(client: Client, pool: Database) -> None:
    run_id = f"waiting-{uuid4().hex[:8]}"
    handle = await client.start_workflow(
        "OrderWorkflow", id=order_workflow_id(run_id), task_queue=run_id, search_attributes=of_run(run_id)
    )
    await until_listed(client, handle.id)
    report = await audit(pool, client, run_id)
    assert (report.is_clean, report.finished, report.workflows_checked) == (True, 0, 0)
    await handle.terminate()


def shop_without_workers(name: str, client: Client, pool: Database) -> Shop:
    """Return a shop without workers, so that its orders stay in the queue."""
    run_id = f"{name}-{uuid4().hex[:8]}"
    return Shop(run_id, client, pool, f"{run_id}-orders", f"{run_id}-shipping")


def test_the_list_of_a_run_is_selected_by_its_search_attribute() -> None:
    closed = "WorkflowType = 'OrderWorkflow' AND ExecutionStatus != 'Running'"
    assert list_filter(CLOSED, None) == closed
    assert list_filter(CLOSED, None, "our-tq") == f"{closed} AND TaskQueue = 'our-tq'"
    assert list_filter(CLOSED, "run", "our-tq") == f"{closed} AND OrderRunId = 'run'"
    assert list_filter(RUNNING, "run") == f"{closed.replace('!=', '=')} AND OrderRunId = 'run'"


@pytest.mark.parametrize("run_id", ["run-1_2", "o'hara", "50%"])
async def test_any_run_id_is_found_in_temporal(client: Client, run_id: str) -> None:
    handle = await client.start_workflow(
        "OrderWorkflow", id=f"order-{uuid4().hex}", task_queue="none", search_attributes=of_run(run_id)
    )
    await until_listed(client, handle.id)
    found = [each.id async for each in client.list_workflows(run_filter(run_id))]
    assert found == [handle.id]
    await handle.terminate()


async def violated_after_reconciler_time(shop: Shop, order_id: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """Check that the order is open, and return the invariant that it violates after RECONCILER_TIME."""
    report = await audit(shop.pool, shop.client, shop.run_id)
    assert (report.violations, report.open_orders) == ([], [order_id])
    monkeypatch.setattr(temporal_comparison, "RECONCILER_TIME", timedelta(0))
    (violation,) = (await audit(shop.pool, shop.client, shop.run_id)).violations
    assert violation.order_id == order_id
    return violation.invariant


async def test_a_terminated_order_is_open_until_the_reconciler_has_had_time(
    client: Client, pool: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_shop(client, pool, FaultInjector(named_profile("none"))) as shop:
        order = shop.order("ended", review=ReviewMode.MANUAL)
        handle = await shop.place(order)
        await until_in_review(shop, order.order_id)
        await handle.terminate("by an operator")
    await shop.until_visible([handle])
    assert await violated_after_reconciler_time(shop, order.order_id, monkeypatch) == 2


async def test_an_order_terminated_before_its_insert_is_open_as_long(
    client: Client, pool: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = shop_without_workers("unopened", client, pool)
    order = shop.order("ended")
    handle = await shop.place(order)
    await handle.terminate("by an operator")
    await shop.until_visible([handle])
    assert await violated_after_reconciler_time(shop, order.order_id, monkeypatch) == 1


async def test_an_order_is_open_while_the_reconciler_works_on_it(
    client: Client, pool: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(temporal_comparison, "RECONCILER_TIME", timedelta(0))
    shop = shop_without_workers("slow", client, pool)
    order = shop.order("ended")
    handle = await shop.place(order)
    await handle.terminate("by an operator")
    await shop.until_visible([handle])
    reconciling = await client.start_workflow(
        "ReconcileWorkflow",
        ReconcileRequest(order.order_id, "the workflow is terminated", shop.run_id),
        id=reconcile_workflow_id(order.order_id),
        task_queue=shop.order_queue,
    )
    report = await audit(pool, client, shop.run_id)
    assert (report.violations, report.open_orders) == ([], [order.order_id])
    await reconciling.terminate("it gives up")
    report = await audit(pool, client, shop.run_id)
    assert [(each.invariant, each.order_id) for each in report.violations] == [(1, order.order_id)]


async def test_a_workflow_that_rejected_its_order_is_not_a_lost_order(
    client: Client, pool: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(temporal_comparison, "RECONCILER_TIME", timedelta(0))
    shop = shop_without_workers("never", client, pool)
    handles = [
        await client.start_workflow(
            "OrderWorkflow",
            id=f"order-{shop.run_id}-{n}",
            args=given,
            task_queue=shop.order_queue,
            search_attributes=of_run(shop.run_id),
        )
        for n, given in enumerate([[], ["nonsense"], [shop.order("empty", items=[])], [shop.order("other")]])
    ]
    for handle in handles:
        await handle.terminate("it was started by hand")
    await shop.until_visible(handles)
    report = await audit(pool, client, shop.run_id)
    assert (report.violations, report.open_orders, report.workflows_checked) == ([], [], len(handles))


async def test_a_reset_workflow_is_not_a_second_one(
    client: Client, pool: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(temporal_comparison, "RECONCILER_TIME", timedelta(0))
    async with open_shop(client, pool, FaultInjector(named_profile("none"))) as shop:
        order = shop.order("reset", review=ReviewMode.MANUAL, limit_seconds=600.0)
        handle = await shop.place(order)
        await until_in_review(shop, order.order_id)
        history = await handle.fetch_history()
        reset_to = max(e.event_id for e in history.events if e.HasField(TASK_COMPLETED))
        await client.workflow_service.reset_workflow_execution(
            ResetWorkflowExecutionRequest(
                namespace=client.namespace,
                workflow_execution=WorkflowExecution(workflow_id=handle.id, run_id=handle.result_run_id),
                workflow_task_finish_event_id=reset_to,
                request_id=str(uuid4()),
                reason="by an operator",
            )
        )
        later = client.get_workflow_handle_for(OrderWorkflow.run, handle.id)
        await shop.until_visible([handle])
        report = await audit(pool, client, shop.run_id)
        assert (report.violations, report.open_orders) == ([], [order.order_id])
        await later.execute_update(OrderWorkflow.approve_order, ApproveOrder("anna"))
        assert (await later.result()).outcome is State.COMPLETED
        run_id = (await later.describe()).run_id
    assert run_id != handle.result_run_id
    await shop.until_visible([client.get_workflow_handle(handle.id, run_id=run_id)])
    report = await audit(pool, client, shop.run_id)
    assert (report.violations, report.finished, report.workflows_checked) == ([], 1, 2)
    assert report.uncompared == 0


async def test_an_order_of_another_cluster_is_checked_without_its_workflow(
    client: Client, pool: Database
) -> None:
    driver = OrderDriver(OrderRepository(pool, "worker-1", TEMPORAL), pool)
    run_id = f"elsewhere-{uuid4().hex[:8]}"
    await driver.carry_to(State.CANCELLED, new_order(run_id=run_id))
    async with asyncio.timeout(temporal_comparison.LISTING_SECONDS):
        report = await audit(pool, client, run_id)
    assert (report.finished, report.uncompared) == (1, 0)


async def test_workflows_of_another_task_queue_are_not_part_of_the_audit(
    client: Client, pool: Database
) -> None:
    shop = shop_without_workers("neighbor", client, pool)
    handle = await shop.place(shop.order("ended"))
    await handle.terminate("by an operator")
    await shop.until_visible([handle])
    assert (await audit(pool, client, task_queue=shop.order_queue)).workflows_checked == 1
    assert (await audit(pool, client, task_queue="our-tq")).workflows_checked == 0


async def test_the_audit_waits_for_workflows_that_are_not_listed_and_counts_them(
    client: Client, pool: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_shop(client, pool, FaultInjector(named_profile("none"))) as shop:
        handle = await shop.place(shop.order("unlisted"))
        await handle.result()
    await shop.until_visible([handle])
    times = 0

    async def late_list(*_: object) -> AsyncIterator[list[temporal.WorkflowExecution]]:
        nonlocal times
        times += 1
        if times > 1:
            async for page in pages(*_):
                yield page

    pages = temporal_comparison.list_chunks
    monkeypatch.setattr(temporal_comparison, "list_chunks", late_list)
    report = await audit(pool, client, shop.run_id)
    assert (report.workflows_checked, report.uncompared, report.violations) == (1, 0, [])
    monkeypatch.setattr(temporal_comparison, "LISTING_SECONDS", 0.3)
    times = -1_000_000
    # Temporal lists no closed workflow.
    monkeypatch.setattr(temporal_comparison, "CLOSED", f"{CLOSED} AND WorkflowId = 'none'")
    report = await audit(pool, client, shop.run_id)
    assert (report.workflows_checked, report.uncompared, report.violations) == (0, 1, [])
    # It does not wait for workflows that Temporal has deleted.
    monkeypatch.setattr(temporal_comparison, "LISTING_SECONDS", 60.0)
    monkeypatch.setattr(temporal_comparison, "MAX_LISTING_DELAY", timedelta(0))
    async with asyncio.timeout(60):
        assert (await audit(pool, client, shop.run_id)).uncompared == 1


async def test_open_orders_are_listed_and_overdue_ones_counted(
    client: Client, pool: Database, command_line: CommandLine
) -> None:
    async with open_shop(client, pool, FaultInjector(named_profile("none"))) as shop:
        orders = [shop.order(f"n{n:02}", review=ReviewMode.MANUAL, limit_seconds=600.0) for n in range(22)]
        handles = [await shop.place(order) for order in orders]
        for order in orders:
            await until_in_review(shop, order.order_id)
        await pool.execute(
            "update orders set limit_at = now() - interval '1 second' where order_id = any (%(ids)s)",
            {"ids": [order.order_id for order in orders[:3]]},
        )
        report = await audit(pool, client, shop.run_id)
        exit_code, printed = await command_line.run("audit", "--run", shop.run_id)
        for handle in handles:
            await handle.terminate()
    assert (len(report.open_orders), report.overdue, report.late) == (22, 3, 3)
    assert exit_code == ExitCode.PASSED
    assert "22 in progress, 3 of them past their limit" in printed
    assert [order.order_id in printed for order in orders] == [True] * 20 + [False] * 2
    assert "and 2 more" in printed
