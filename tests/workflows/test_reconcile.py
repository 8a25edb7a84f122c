"""What becomes of an order whose own workflow was ended from outside."""

import asyncio
from datetime import timedelta

import pytest
from temporalio.client import WorkflowFailureError

from db.domain import Reason, State
from orchestrator.messages import Activity, OpenRequest, OrderResult, ReconcileRequest
from orchestrator.workflow_ids import reconcile_workflow_id
from orchestrator.workflows.reconcile import ReconcileWorkflow
from tests.orders import new_order
from tests.workflows.conftest import ORDER_QUEUE, Placed, Shop
from tests.workflows.fake_activities import LostAnswer

STATES = [State.RECEIVED, State.IN_REVIEW, State.APPROVED, State.CHARGED, State.PREPARED, State.DISPATCHED]


async def reconcile(shop: Shop, request: ReconcileRequest, again: str = "") -> OrderResult:
    async with asyncio.timeout(20):
        return await shop.client.execute_workflow(
            ReconcileWorkflow.run,
            request,
            id=reconcile_workflow_id(request.order_id) + again,
            task_queue=ORDER_QUEUE,
        )


async def terminated_in(shop: Shop, state: State) -> Placed:
    placed = await shop.place_in(state)
    await placed.handle.terminate("by an operator")
    with pytest.raises(WorkflowFailureError):
        await placed.handle.result()
    if state is State.DISPATCHED:
        await placed.let_go(Activity.FINISH)
    return placed


@pytest.mark.parametrize("state", STATES)
async def test_the_books_of_a_terminated_order_are_undone_and_closed(shop, state):
    placed = await terminated_in(shop, state)
    result = await reconcile(shop, ReconcileRequest(placed.id, "terminated"))
    assert placed.orders.problems() == []
    expected = (State.COMPLETED, None) if state is State.DISPATCHED else (State.FAILED, Reason.TERMINATED)
    assert (result.outcome, result.reason) == expected == (placed.orders.state, placed.orders.abort_reason)


@pytest.mark.parametrize("name", [Activity.ABORT, Activity.REFUND, Activity.RECALL, Activity.FINISH])
async def test_each_of_its_activities_may_run_twice(shop, name):
    placed = await terminated_in(shop, State.PREPARED)
    shop.activities.script(placed.id, name, [LostAnswer()])
    result = await reconcile(shop, ReconcileRequest(placed.id, "terminated"))
    assert (result.outcome, result.reason) == (State.FAILED, Reason.TERMINATED)
    assert placed.orders.problems() == []


async def test_an_order_that_has_its_outcome_keeps_it(shop):
    placed = await shop.place_in(State.COMPLETED)
    result = await reconcile(shop, ReconcileRequest(placed.id, "terminated"))
    assert (result.outcome, result.reason) == (State.COMPLETED, None)
    assert placed.orders.problems() == []


async def test_an_order_that_was_already_being_cancelled_keeps_its_reason(shop):
    placed = await shop.place(hold=(Activity.PREPARE, Activity.REFUND))
    await placed.until_held(Activity.PREPARE)
    await placed.handle.signal("CancelOrder", {"reason": "why", "cancelled_by": "customer"})
    await placed.until_held(Activity.REFUND)
    await placed.handle.terminate("by an operator")
    await placed.let_go(Activity.REFUND)
    result = await reconcile(shop, ReconcileRequest(placed.id, "terminated"))
    assert (result.outcome, result.reason) == (State.CANCELLED, Reason.CUSTOMER_CANCELLED)
    assert placed.orders.problems() == []


async def test_an_order_that_never_got_into_the_books_is_entered_and_closed(shop):
    order = new_order()
    unopened = OpenRequest(order, "run", order.requested_at, order.requested_at + timedelta(seconds=15))
    result = await reconcile(shop, ReconcileRequest(order.order_id, "terminated", open_request=unopened))
    assert (result.outcome, result.reason) == (State.FAILED, Reason.TERMINATED)
    assert shop.activities.orders[order.order_id].problems() == []


async def test_two_reconciliations_at_once_lead_to_one_outcome(shop):
    placed = await terminated_in(shop, State.PREPARED)
    request = ReconcileRequest(placed.id, "terminated")
    one, other = await asyncio.gather(reconcile(shop, request), reconcile(shop, request, again="-again"))
    assert one == other
    assert placed.orders.problems() == []
