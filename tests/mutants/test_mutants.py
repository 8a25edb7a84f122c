"""Each mutant violates an invariant, and the audit must report the invariant and the order.

A healthy order runs on the same workers at the same time and must not be reported. The same scenarios
without a mutation must be clean.
"""

import asyncio
from contextlib import suppress

import pytest
from temporalio.client import Client, WorkflowFailureError, WorkflowHandle, WorkflowUpdateFailedError
from temporalio.common import WorkflowIDReusePolicy
from temporalio.service import RPCError, RPCStatusCode

from db.database import Database
from db.domain import RequestResult, ReviewMode, State, Step
from db.maintenance.audit import INVARIANTS
from orchestrator.audit import AuditReport, audit
from orchestrator.errors import ExitCode
from orchestrator.gateways.fault_injection import FaultInjector, FaultProfile, Rates, named_profile
from orchestrator.messages.ids import ORDER_WORKFLOW_PREFIX
from orchestrator.messages.orders import OrderResult
from orchestrator.messages.requests import ApproveOrder, CancelOrder, RejectOrder, UpdateAddress
from orchestrator.workflows.order import OrderWorkflow
from tests.command_line import CommandLine
from tests.mutants.broken import HEALTHY, MUTANTS, VICTIM, Mutant, Scenario, is_victim
from tests.orders import OTHER_ADDRESS
from tests.shop import POLL_SECONDS, Shop, open_shop

Handle = WorkflowHandle[OrderWorkflow, OrderResult]

UNMODIFIED = [Mutant(f"unmodified, {scenario}", set(), scenario) for scenario in Scenario]
MANUAL_REVIEW = (Scenario.CANCELLED_IN_REVIEW, Scenario.MOVED_IN_REVIEW, Scenario.REJECTED)
EXPECTED = {
    Scenario.PLAIN: State.COMPLETED,
    Scenario.UNDELIVERABLE: State.FAILED,
    Scenario.CANCELLED_IN_REVIEW: State.CANCELLED,
    Scenario.MOVED_IN_REVIEW: State.COMPLETED,
    Scenario.REJECTED: State.CANCELLED,
    Scenario.STARTED_AGAIN: State.COMPLETED,
}


async def run_and_audit(mutant: Mutant, client: Client, pool: Database) -> tuple[Shop, AuditReport]:
    """Run two orders through the scenario on the mutant's workers, and audit the result."""
    faults = FaultInjector(named_profile("none"))
    if mutant.scenario is Scenario.UNDELIVERABLE:
        faults.profile = FaultProfile("custom", 0, Rates(), {Step.DISPATCH: Rates(decline=1.0)})
    async with open_shop(
        client, pool, faults, name="mutant", repository=mutant.repository, activities=mutant.activities
    ) as shop:
        orders = [shop.order(name) for name in (HEALTHY, VICTIM)]
        if mutant.scenario in MANUAL_REVIEW:
            orders = [shop.order(name, review=ReviewMode.MANUAL) for name in (HEALTHY, VICTIM)]
        if mutant.scenario is Scenario.UNDELIVERABLE:
            # The workflow repeats the shipment until the deadline.
            orders = [shop.order(name, limit_seconds=15.0) for name in (HEALTHY, VICTIM)]
        handles = [await shop.place(order) for order in orders]
        left_running: list[Handle] = []
        for handle in handles:
            await send_requests(mutant.scenario, handle)
            if mutant.leaves_running and is_victim(handle.id):
                await wait_for_outcome(shop, handle)
                left_running.append(handle)
            else:
                await handle.result()
        if mutant.scenario is Scenario.STARTED_AGAIN:
            again = [await shop.place(order, WorkflowIDReusePolicy.ALLOW_DUPLICATE) for order in orders]
            for handle in again:
                await wait_until_closed(handle)
            handles += again
    closed = [handle for handle in handles if handle not in left_running]
    await shop.until_visible(closed)
    report = await audit(pool, client, shop.run_id, acknowledged=[order.order_id for order in orders])
    assert report.workflows_checked == len(closed)
    return shop, report


async def send_requests(scenario: Scenario, handle: Handle) -> None:
    """Send the requests of this scenario for one order."""
    if scenario is Scenario.CANCELLED_IN_REVIEW:
        response = await handle.execute_update(
            OrderWorkflow.cancel_order, CancelOrder("not wanted", "customer")
        )
        assert response.accepted
        await approve(handle)
    elif scenario is Scenario.MOVED_IN_REVIEW:
        response = await handle.execute_update(
            OrderWorkflow.update_address, UpdateAddress(OTHER_ADDRESS, "customer")
        )
        assert response.accepted
        assert (await approve(handle)) is not None
    elif scenario is Scenario.REJECTED:
        response = await handle.execute_update(OrderWorkflow.reject_order, RejectOrder("anna", "suspicious"))
        assert response.accepted


async def approve(handle: Handle) -> RequestResult | None:
    """Return the response, or None when the workflow is closed."""
    try:
        return await handle.execute_update(OrderWorkflow.approve_order, ApproveOrder("anna"))
    except RPCError as error:
        if error.status is not RPCStatusCode.NOT_FOUND:
            raise
    except WorkflowUpdateFailedError:
        # The workflow closed after it had accepted the update.
        pass
    return None


async def wait_for_outcome(shop: Shop, handle: Handle) -> None:
    """Wait until an order has its outcome in the order database."""
    order_id = handle.id.removeprefix(ORDER_WORKFLOW_PREFIX)
    while (row := await shop.row(order_id)) is None or not State(row["state"]).is_terminal:  # noqa: ASYNC110
        await asyncio.sleep(POLL_SECONDS)


async def wait_until_closed(handle: Handle) -> None:
    """Wait for a second run of an order, which fails as a duplicate."""
    with suppress(WorkflowFailureError):
        await handle.result()


@pytest.mark.parametrize("mutant", UNMODIFIED, ids=lambda mutant: str(mutant.scenario))
async def test_the_audit_of_the_unmodified_product_is_clean(
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
async def test_the_audit_reports_the_invariant_and_the_order(
    mutant: Mutant, client: Client, pool: Database, command_line: CommandLine
) -> None:
    shop, report = await run_and_audit(mutant, client, pool)
    reported = [f"{shop.run_id}-{name}" for name in mutant.reported]
    by_order = {violation.order_id for violation in report.violations}
    for order_id in reported:
        violated = {violation.invariant for violation in report.violations if violation.order_id == order_id}
        assert mutant.breaks <= violated
    assert by_order <= {f"{shop.run_id}-{VICTIM}", *reported}
    assert all(violation.finding and violation.evidence for violation in report.violations)
    exit_code, printed = await command_line.run("audit", "--run", shop.run_id)
    assert exit_code == ExitCode.INVARIANT_BROKEN, printed
    assert all(order_id in printed for order_id in reported)


def test_every_invariant_has_a_mutant() -> None:
    assert set().union(*(mutant.breaks for mutant in MUTANTS)) == set(INVARIANTS)
