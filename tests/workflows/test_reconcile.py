"""ReconcileWorkflow: an order whose own workflow was terminated."""

import asyncio

import pytest
from temporalio.client import WorkflowFailureError

from db.domain import Reason, State
from orchestrator.messages.activities import Activity
from orchestrator.messages.ids import reconcile_workflow_id
from orchestrator.messages.orders import OrderResult, ReconcileRequest
from orchestrator.testing import ResponseLost
from orchestrator.workflows.reconcile import ReconcileWorkflow
from tests.orders import new_order
from tests.workflows.conftest import ORDER_QUEUE, OrderEnvironment, PlacedOrder

STATES = [State.RECEIVED, State.IN_REVIEW, State.APPROVED, State.CHARGED, State.PREPARED, State.DISPATCHED]


async def reconcile(env: OrderEnvironment, request: ReconcileRequest, again: str = "") -> OrderResult:
    async with asyncio.timeout(60):
        return await env.client.execute_workflow(
            ReconcileWorkflow.run,
            request,
            id=reconcile_workflow_id(request.order_id) + again,
            task_queue=ORDER_QUEUE,
        )


async def terminated_in(env: OrderEnvironment, state: State) -> PlacedOrder:
    placed = await env.place_in(state)
    await placed.handle.terminate("by an operator")
    with pytest.raises(WorkflowFailureError):
        await placed.handle.result()
    if state is State.DISPATCHED:
        placed.release(Activity.FINISH)
    return placed


@pytest.mark.parametrize("state", STATES)
async def test_a_terminated_order_is_compensated_and_finished(env, state):
    placed = await terminated_in(env, state)
    result = await reconcile(env, ReconcileRequest(placed.id, "terminated"))
    assert placed.stored.violations() == []
    expected = (State.COMPLETED, None) if state is State.DISPATCHED else (State.FAILED, Reason.TERMINATED)
    assert (result.outcome, result.reason) == expected == (placed.stored.state, placed.stored.abort_reason)


@pytest.mark.parametrize("name", [Activity.ABORT, Activity.REFUND, Activity.RECALL, Activity.FINISH])
async def test_each_activity_of_a_reconciliation_can_run_twice(env, name):
    placed = await terminated_in(env, State.PREPARED)
    env.activities.script(placed.id, name, [ResponseLost()])
    result = await reconcile(env, ReconcileRequest(placed.id, "terminated"))
    assert (result.outcome, result.reason) == (State.FAILED, Reason.TERMINATED)
    assert placed.stored.violations() == []


async def test_an_order_with_an_outcome_keeps_it(env):
    placed = await env.place_in(State.COMPLETED)
    result = await reconcile(env, ReconcileRequest(placed.id, "terminated"))
    assert (result.outcome, result.reason) == (State.COMPLETED, None)
    assert placed.stored.violations() == []


async def test_an_order_that_was_cancelled_before_the_termination_keeps_its_reason(env):
    placed = await env.place(hold=(Activity.PREPARE, Activity.REFUND))
    await placed.wait_until_held(Activity.PREPARE)
    await placed.handle.signal("CancelOrder", {"reason": "why", "cancelled_by": "customer"})
    await placed.wait_until_held(Activity.REFUND)
    await placed.handle.terminate("by an operator")
    placed.release(Activity.REFUND)
    result = await reconcile(env, ReconcileRequest(placed.id, "terminated"))
    assert (result.outcome, result.reason) == (State.CANCELLED, Reason.CUSTOMER_CANCELLED)
    assert placed.stored.violations() == []


async def test_an_order_that_was_never_inserted_is_inserted_and_finished(env):
    order = new_order()
    unopened = order.new_order("run", order.requested_at)
    result = await reconcile(env, ReconcileRequest(order.order_id, "terminated", new_order=unopened))
    assert (result.outcome, result.reason) == (State.FAILED, Reason.TERMINATED)
    assert env.activities.orders[order.order_id].violations() == []


async def test_two_concurrent_reconciliations_lead_to_one_outcome(env):
    placed = await terminated_in(env, State.PREPARED)
    request = ReconcileRequest(placed.id, "terminated")
    one, other = await asyncio.gather(reconcile(env, request), reconcile(env, request, again="-again"))
    assert one == other
    assert placed.stored.violations() == []
