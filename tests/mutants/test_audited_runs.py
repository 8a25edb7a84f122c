"""Which orders an audit of a run looks at: also those of which the books know nothing, or nothing yet."""

import asyncio
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from temporalio.client import Client

from db import runs
from db.pool import Books
from orchestrator import audit as audit_module
from orchestrator.audit import CLOCKS_DIFFER, audit, closed_workflows
from orchestrator.cli.exit_codes import ExitCode
from orchestrator.errors import RunUnknown
from orchestrator.outside.faults import ProfiledFaults, named_profile
from orchestrator.settings import Settings
from orchestrator.vocabulary import ReviewMode, State, order_workflow_id
from tests.command_line import CommandLine
from tests.shop import LOOK_AGAIN_SECONDS, VISIBLE_SECONDS, Shop, open_shop

NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)


async def until_in_review(shop: Shop, order_id: str) -> None:
    handle = shop.client.get_workflow_handle(order_workflow_id(order_id))
    while True:
        row = await shop.row(order_id)
        if row is not None and row["state"] == State.IN_REVIEW:
            return
        # Answered once the workflow has moved on, so this waits without sleeping.
        await handle.query("status")


async def until_listed(client: Client, workflow_id: str) -> None:
    """Returns once Temporal's list shows the workflow, which it does a moment after its start."""
    async with asyncio.timeout(VISIBLE_SECONDS):
        while True:
            if [each async for each in client.list_workflows(f"WorkflowId = '{workflow_id}'")]:
                return
            await asyncio.sleep(LOOK_AGAIN_SECONDS)


async def test_a_run_of_which_nobody_knows_anything_is_unknown_and_not_clean(
    client: Client, pool: Books, command_line: CommandLine
) -> None:
    with pytest.raises(RunUnknown, match="there is no run typo"):
        await audit(pool, client, "typo")
    exit_code, printed = await command_line.run("audit", "--run", "typo")
    assert exit_code == ExitCode.WRONG_USAGE
    assert "there is no run typo" in printed
    assert len(printed.strip().splitlines()) == 1


async def test_a_run_that_was_recorded_is_known_without_an_order(
    client: Client, pool: Books, settings: Settings
) -> None:
    run_id = f"recorded-{uuid4().hex[:8]}"
    run = runs.NewRun(run_id, "steady", {}, [], "none", 0, datetime.now(UTC), None, {})
    assert runs.open_run(settings.books_url, run)
    report = await audit(pool, client, run_id)
    assert (report.is_clean, report.judged, report.workflows_checked) == (True, 0, 0)


async def test_a_run_is_known_while_no_worker_has_its_order(client: Client, pool: Books) -> None:
    run_id = f"waiting-{uuid4().hex[:8]}"
    handle = await client.start_workflow(
        "OrderWorkflow", id=order_workflow_id(run_id), task_queue=run_id, memo={"run_id": run_id}
    )
    await until_listed(client, handle.id)
    report = await audit(pool, client, run_id)
    assert (report.is_clean, report.judged, report.workflows_checked) == (True, 0, 0)
    await handle.terminate()


def test_the_search_reaches_back_to_where_the_run_may_have_begun() -> None:
    closed = "WorkflowType = 'OrderWorkflow' AND ExecutionStatus != 'Running'"

    def begun(at: datetime) -> str:
        return f"{closed} AND StartTime >= '{at.isoformat()}'"

    hour = timedelta(hours=1)
    assert closed_workflows(None, NOON, None) == closed
    assert closed_workflows("run", None, None) == closed
    assert closed_workflows("run", NOON, NOON - hour) == begun(NOON - hour - CLOCKS_DIFFER)
    assert closed_workflows("run", None, NOON) == begun(NOON - CLOCKS_DIFFER)
    # A record made after the fact does not hide the orders before it.
    assert closed_workflows("run", NOON, NOON + hour) == begun(NOON - CLOCKS_DIFFER)
    assert closed_workflows("run", NOON, None) == begun(NOON - 24 * hour)


async def test_an_order_ended_by_an_operator_is_open_until_the_reconciler_had_its_time(
    client: Client, pool: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_shop(client, pool, ProfiledFaults(named_profile("none"))) as shop:
        order = shop.order("ended", review=ReviewMode.MANUAL)
        handle = await shop.place(order)
        await until_in_review(shop, order.order_id)
        await handle.terminate("by an operator")
    await shop.until_visible([handle])
    report = await audit(pool, client, shop.run_id)
    assert (report.violations, report.open_orders) == ([], [order.order_id])
    monkeypatch.setattr(audit_module, "RECONCILER_TIME", timedelta(0))
    report = await audit(pool, client, shop.run_id)
    assert [(each.invariant, each.order_id) for each in report.violations] == [(2, order.order_id)]


async def test_an_order_ended_before_it_was_in_the_books_is_open_as_long(
    client: Client, pool: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = f"unopened-{uuid4().hex[:8]}"
    handle = await client.start_workflow(
        "OrderWorkflow", id=order_workflow_id(run_id), task_queue=run_id, memo={"run_id": run_id}
    )
    await handle.terminate("by an operator")
    shop = Shop(run_id, client, pool, run_id, run_id)
    await shop.until_visible([handle])
    report = await audit(pool, client, run_id)
    assert (report.violations, report.open_orders) == ([], [run_id])
    monkeypatch.setattr(audit_module, "RECONCILER_TIME", timedelta(0))
    report = await audit(pool, client, run_id)
    assert [(each.invariant, each.order_id) for each in report.violations] == [(1, run_id)]
