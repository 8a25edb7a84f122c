"""Every invariant is broken on purpose, for real, and the audit must name it and the order.

A healthy order goes through the same workers at the same time and must not be named; the same scenario
without the mutation must be clean.
"""

import asyncio
from contextlib import suppress

import pytest
from temporalio.client import Client, WorkflowFailureError, WorkflowHandle, WorkflowUpdateFailedError
from temporalio.common import WorkflowIDReusePolicy
from temporalio.service import RPCError, RPCStatusCode

from db.audit import INVARIANTS
from db.database import Database
from db.domain import ReviewMode, State, Step
from orchestrator.audit import AuditReport, audit
from orchestrator.exit_codes import ExitCode
from orchestrator.gateways.fault_injection import FaultProfile, ProfileFaultInjector, Rates, named_profile
from orchestrator.messages import (
    ApproveOrder,
    CancelOrder,
    OrderResult,
    RejectOrder,
    RequestResult,
    UpdateAddress,
)
from orchestrator.workflow_ids import ORDER_WORKFLOW_PREFIX
from orchestrator.workflows.order import OrderWorkflow
from tests.command_line import CommandLine
from tests.mutants.broken import HEALTHY, MUTANTS, VICTIM, Mutant, Scenario, is_victim
from tests.orders import OTHER_ADDRESS
from tests.shop import POLL_SECONDS, Shop, open_shop

Handle = WorkflowHandle[OrderWorkflow, OrderResult]

UNBROKEN = [Mutant(f"unbroken, {scenario}", set(), scenario) for scenario in Scenario]
REVIEWED_BY_A_PERSON = (Scenario.CANCELLED_IN_REVIEW, Scenario.MOVED_IN_REVIEW, Scenario.REJECTED)
EXPECTED = {
    Scenario.PLAIN: State.COMPLETED,
    Scenario.UNDELIVERABLE: State.FAILED,
    Scenario.CANCELLED_IN_REVIEW: State.CANCELLED,
    Scenario.MOVED_IN_REVIEW: State.COMPLETED,
    Scenario.REJECTED: State.CANCELLED,
    Scenario.STARTED_AGAIN: State.COMPLETED,
}


async def run_and_audit(mutant: Mutant, client: Client, pool: Database) -> tuple[Shop, AuditReport]:
    """Carries two orders through the scenario in the mutant's shop, and audits what it left behind."""
    faults = ProfileFaultInjector(named_profile("none"))
    if mutant.scenario is Scenario.UNDELIVERABLE:
        faults.profile = FaultProfile("custom", 0, Rates(), {Step.DISPATCH: Rates(decline=1.0)})
    async with open_shop(
        client, pool, faults, name="mutant", repository=mutant.repository, activities=mutant.activities
    ) as shop:
        orders = [shop.order(name) for name in (HEALTHY, VICTIM)]
        if mutant.scenario in REVIEWED_BY_A_PERSON:
            orders = [shop.order(name, review=ReviewMode.MANUAL) for name in (HEALTHY, VICTIM)]
        if mutant.scenario is Scenario.UNDELIVERABLE:
            # It is shipped again until its time is over.
            orders = [shop.order(name, limit_seconds=8.0) for name in (HEALTHY, VICTIM)]
        handles = [await shop.place(order) for order in orders]
        left_running: list[Handle] = []
        for handle in handles:
            await act(mutant.scenario, handle)
            if mutant.leaves_running and is_victim(handle.id):
                await until_written(shop, handle)
                left_running.append(handle)
            else:
                await handle.result()
        if mutant.scenario is Scenario.STARTED_AGAIN:
            again = [await shop.place(order, WorkflowIDReusePolicy.ALLOW_DUPLICATE) for order in orders]
            for handle in again:
                await until_closed(handle)
            handles += again
    closed = [handle for handle in handles if handle not in left_running]
    await shop.until_visible(closed)
    report = await audit(pool, client, shop.run_id, acknowledged=[order.order_id for order in orders])
    assert report.workflows_checked == len(closed)
    return shop, report


async def act(scenario: Scenario, handle: Handle) -> None:
    """What people do with one order of this scenario."""
    if scenario is Scenario.CANCELLED_IN_REVIEW:
        answer = await handle.execute_update(
            OrderWorkflow.cancel_order, CancelOrder("not wanted", "customer")
        )
        assert answer.accepted
        await approve(handle)
    elif scenario is Scenario.MOVED_IN_REVIEW:
        moved = await handle.execute_update(
            OrderWorkflow.update_address, UpdateAddress(OTHER_ADDRESS, "customer")
        )
        assert moved.accepted
        assert (await approve(handle)) is not None
    elif scenario is Scenario.REJECTED:
        answer = await handle.execute_update(OrderWorkflow.reject_order, RejectOrder("anna", "suspicious"))
        assert answer.accepted


async def approve(handle: Handle) -> RequestResult | None:
    """The answer, or None when the order has closed already."""
    try:
        return await handle.execute_update(OrderWorkflow.approve_order, ApproveOrder("anna"))
    except RPCError as error:
        if error.status is not RPCStatusCode.NOT_FOUND:
            raise
    except WorkflowUpdateFailedError:
        # It closed between taking the request in and answering it.
        pass
    return None


async def until_written(shop: Shop, handle: Handle) -> None:
    """Waits until the order of a workflow that does not close has its outcome in the books."""
    order_id = handle.id.removeprefix(ORDER_WORKFLOW_PREFIX)
    while (row := await shop.row(order_id)) is None or not State(row["state"]).is_terminal:  # noqa: ASYNC110
        await asyncio.sleep(POLL_SECONDS)


async def until_closed(handle: Handle) -> None:
    """Waits for a second run of an order: the product lets it fail as a duplicate."""
    with suppress(WorkflowFailureError):
        await handle.result()


@pytest.mark.parametrize("mutant", UNBROKEN, ids=lambda mutant: str(mutant.scenario))
async def test_the_unbroken_product_audits_clean(
    mutant: Mutant, client: Client, pool: Database, command_line: CommandLine
) -> None:
    shop, report = await run_and_audit(mutant, client, pool)
    assert report.violations == []
    assert (report.finished, report.open_orders, report.uncompared) == (2, [], 0)
    for name in (HEALTHY, VICTIM):
        row = await shop.row(f"{shop.run_id}-{name}")
        assert row is not None
        assert row["state"] == EXPECTED[mutant.scenario]
    exit_code, printed = await command_line.run("audit", "--run", shop.run_id)
    assert exit_code == ExitCode.PASSED, printed


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
async def test_the_audit_names_the_invariant_and_the_order(
    mutant: Mutant, client: Client, pool: Database, command_line: CommandLine
) -> None:
    shop, report = await run_and_audit(mutant, client, pool)
    blamed = [f"{shop.run_id}-{name}" for name in mutant.blamed]
    by_order = {violation.order_id for violation in report.violations}
    for order_id in blamed:
        broken = {violation.invariant for violation in report.violations if violation.order_id == order_id}
        assert mutant.breaks <= broken
    assert by_order <= {f"{shop.run_id}-{VICTIM}", *blamed}
    assert all(violation.finding and violation.evidence for violation in report.violations)
    exit_code, printed = await command_line.run("audit", "--run", shop.run_id)
    assert exit_code == ExitCode.INVARIANT_BROKEN, printed
    assert all(order_id in printed for order_id in blamed)


def test_every_invariant_has_its_mutant() -> None:
    assert set().union(*(mutant.breaks for mutant in MUTANTS)) == set(INVARIANTS)
