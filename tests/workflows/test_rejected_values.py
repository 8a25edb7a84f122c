"""Values that the order database rejects: steps and requests fail at once, an outcome is retried slowly."""

from datetime import timedelta

import pytest
from temporalio.client import WorkflowFailureError, WorkflowUpdateFailedError
from temporalio.exceptions import ApplicationError

from db.domain import Reason, State
from db.errors import ValueRejected
from orchestrator.messages.activities import Activity
from orchestrator.messages.orders import INVALID_ORDER
from orchestrator.messages.requests import VALUE_REJECTED
from orchestrator.worker.rejected_values import RETRY_DELAY
from tests.workflows.conftest import OrderEnvironment
from tests.workflows.test_requests import REQUESTS, SIGNALS

REJECTED = [ValueRejected()] * 10


@pytest.mark.parametrize("name", [Activity.RECEIVE, Activity.VALIDATE, Activity.CHARGE, Activity.APPROVE])
async def test_a_rejected_forward_step_aborts_the_order(env: OrderEnvironment, name: Activity) -> None:
    placed = await env.place({name: REJECTED})
    result = await placed.result()
    assert (result.outcome, result.reason) == (State.FAILED, Reason.INTERNAL_ERROR)
    # Once as a local and once as a regular activity.
    assert placed.count(name) == 2


async def test_an_order_that_cannot_be_inserted_is_invalid(env: OrderEnvironment) -> None:
    placed = await env.place({Activity.OPEN: REJECTED})
    with pytest.raises(WorkflowFailureError) as error:
        await placed.handle.result()
    assert isinstance(error.value.cause, ApplicationError)
    assert error.value.cause.type == INVALID_ORDER
    assert placed.count(Activity.OPEN) == 2


@pytest.mark.parametrize(
    ("name", "state", "changes"),
    [
        (Activity.FINISH, State.COMPLETED, {}),
        (Activity.ABORT, State.FAILED, {Activity.CHARGE: REJECTED}),
    ],
)
async def test_what_an_order_cannot_end_without_is_retried_slowly(
    fresh_time_skipping_env: OrderEnvironment, name: Activity, state: State, changes: dict
) -> None:
    placed = await fresh_time_skipping_env.place({name: REJECTED[:4]} | changes, limit_seconds=3_600)
    assert (await placed.result()).outcome is state
    # A local attempt, and four regular ones.
    assert placed.count(name) == 5
    description = await placed.handle.describe()
    assert description.close_time is not None
    took = description.close_time - description.start_time
    assert 3 * RETRY_DELAY <= took < 3 * RETRY_DELAY + timedelta(seconds=10)


@pytest.mark.parametrize(
    ("request_name", "name"),
    [("update_address", Activity.CHANGE_ADDRESS), ("approve_order", Activity.APPROVE)],
)
async def test_a_rejected_request_fails_and_the_order_goes_on(
    env: OrderEnvironment, request_name: str, name: Activity
) -> None:
    placed = await env.place_in(State.IN_REVIEW)
    env.activities.script(placed.id, name, REJECTED[:2])
    with pytest.raises(WorkflowUpdateFailedError) as error:
        await placed.handle.execute_update(request_name, REQUESTS[request_name])
    assert isinstance(error.value.cause, ApplicationError)
    assert error.value.cause.type == VALUE_REJECTED
    env.activities.script(placed.id, name, REJECTED[:2])
    await placed.handle.signal(SIGNALS[request_name], REQUESTS[request_name])
    await placed.wait_until(lambda _: placed.count(name) == 4)
    await placed.handle.signal("ApproveOrder", {"reviewer": "tester"})
    assert (await placed.result()).outcome is State.COMPLETED
