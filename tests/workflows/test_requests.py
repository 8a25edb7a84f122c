"""Requests to a running order: each one as a signal and as an update, in each state; and operator actions."""

import asyncio
import itertools

import pytest
from temporalio.client import WorkflowFailureError, WorkflowUpdateFailedError
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError, RPCStatusCode

from db.domain import Reason, RequestResult, ReviewMode, State
from orchestrator.messages.activities import Activity, StepStatus
from orchestrator.messages.ids import shipping_workflow_id
from orchestrator.messages.requests import INVALID_REQUEST, MAX_REQUESTS, TOO_MANY_REQUESTS
from orchestrator.testing import ResponseLost
from orchestrator.workflows.order import OrderWorkflow
from tests.orders import OTHER_ADDRESS
from tests.workflows.conftest import PlacedOrder

NEW_ADDRESS = {
    "street": OTHER_ADDRESS.street,
    "city": OTHER_ADDRESS.city,
    "state": OTHER_ADDRESS.state,
    "zip": OTHER_ADDRESS.zip,
}
REQUESTS = {
    "cancel_order": {"reason": "changed my mind", "cancelled_by": "customer"},
    "update_address": {"new_address": NEW_ADDRESS, "updated_by": "customer"},
    "approve_order": {"reviewer": "eve"},
    "reject_order": {"reviewer": "bob", "reason": "looks odd"},
}
"""Plain JSON, as any Temporal tool can send it."""

SIGNALS = {
    "cancel_order": "CancelOrder",
    "update_address": "UpdateAddress",
    "approve_order": "ApproveOrder",
    "reject_order": "RejectOrder",
}
STATES = [
    State.RECEIVED,
    State.IN_REVIEW,
    State.APPROVED,
    State.CHARGED,
    State.PREPARED,
    State.DISPATCHED,
]


def in_time(name: str, state: State) -> bool:
    """Return whether a request is accepted in a state."""
    before = {"reject_order": State.APPROVED, "approve_order": State.APPROVED}.get(name, State.DISPATCHED)
    return before.is_past(state)


def outcome_after(name: str, state: State) -> tuple[State, Reason | None]:
    if in_time(name, state):
        if name == "cancel_order":
            return State.CANCELLED, Reason.CUSTOMER_CANCELLED
        if name == "reject_order":
            return State.CANCELLED, Reason.REVIEW_REJECTED
    return State.COMPLETED, None


async def check_outcome(placed: PlacedOrder, name: str, state: State) -> None:
    result = await placed.result()
    assert (result.outcome, result.reason) == outcome_after(name, state)
    changed = name == "update_address" and in_time(name, state)
    assert placed.stored.address == (OTHER_ADDRESS if changed else placed.order.initial_address)
    approval = [("approve_order", True)] if (name, state) == ("update_address", State.IN_REVIEW) else []
    assert placed.stored.requests == [(name, in_time(name, state)), *approval]
    # A compensation runs only if its step was attempted.
    assert (placed.count(Activity.REFUND) > 0) == (
        result.outcome is not State.COMPLETED and placed.count(Activity.CHARGE) > 0
    )
    assert (placed.count(Activity.RECALL) > 0) == (
        result.outcome is not State.COMPLETED and placed.count(Activity.PREPARE) > 0
    )


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("name", REQUESTS)
async def test_a_signal_is_accepted_in_time_and_recorded_when_too_late(env, name, state):
    placed = await env.place_in(state)
    await placed.handle.signal(SIGNALS[name], REQUESTS[name])
    await placed.wait_until(lambda stored: stored.requests)
    await placed.resume(state)
    await check_outcome(placed, name, state)


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("name", REQUESTS)
async def test_an_update_returns_accepted_or_too_late(env, name, state):
    placed = await env.place_in(state)
    response = await placed.handle.execute_update(name, REQUESTS[name], result_type=RequestResult)
    assert response.accepted == in_time(name, state)
    assert response.accepted or response.message.startswith("too late")
    await placed.resume(state)
    await check_outcome(placed, name, state)


@pytest.mark.parametrize("name", REQUESTS)
async def test_a_signal_before_the_order_is_stored_is_handled_later(env, name):
    placed = await env.place(hold=(Activity.OPEN,), review=ReviewMode.MANUAL)
    await placed.wait_until_held(Activity.OPEN)
    await placed.handle.signal(SIGNALS[name], REQUESTS[name])
    placed.release(Activity.OPEN)
    if name == "update_address":
        await placed.wait_until_in_review()
        await placed.handle.signal("ApproveOrder", {"reviewer": "eve"})
        await placed.result()
        assert placed.stored.address == OTHER_ADDRESS
    else:
        await check_outcome(placed, name, State.RECEIVED)


@pytest.mark.parametrize("name", REQUESTS)
async def test_an_update_before_the_order_is_stored_waits_for_its_result(env, name):
    placed = await env.place(hold=(Activity.OPEN,), review=ReviewMode.MANUAL)
    await placed.wait_until_held(Activity.OPEN)
    update = asyncio.create_task(
        placed.handle.execute_update(name, REQUESTS[name], result_type=RequestResult)
    )
    placed.release(Activity.OPEN)
    assert (await update).accepted
    if name == "update_address":
        await placed.handle.signal("ApproveOrder", {"reviewer": "eve"})
    await placed.result()


@pytest.mark.parametrize("name", REQUESTS)
async def test_after_the_outcome_no_request_reaches_the_order(env, name):
    placed = await env.place_in(State.COMPLETED)
    calls = list(placed.calls)
    with pytest.raises(RPCError) as signal:
        await placed.handle.signal(SIGNALS[name], REQUESTS[name])
    with pytest.raises(RPCError) as update:
        await placed.handle.execute_update(name, REQUESTS[name])
    assert signal.value.status == update.value.status == RPCStatusCode.NOT_FOUND
    assert placed.calls == calls
    assert placed.stored.requests == []


# --- Several requests ---------------------------------------------------------------------------------


async def test_the_second_of_two_cancellations_is_too_late(env):
    placed = await env.place_in(State.CHARGED, hold=(Activity.FINISH,))
    results = [
        await placed.handle.execute_update(
            "cancel_order", REQUESTS["cancel_order"], result_type=RequestResult
        )
        for _ in range(2)
    ]
    assert [result.accepted for result in results] == [True, False]
    placed.release(Activity.FINISH)
    assert (await placed.result()).reason is Reason.CUSTOMER_CANCELLED


async def test_the_first_of_a_rejection_and_a_cancellation_sets_the_reason(env):
    placed = await env.place_in(State.RECEIVED, hold=(Activity.FINISH,))
    await placed.handle.signal("RejectOrder", REQUESTS["reject_order"])
    await placed.wait_until(lambda stored: stored.requests)
    await placed.handle.signal("CancelOrder", REQUESTS["cancel_order"])
    placed.release(Activity.FINISH)
    assert (await placed.result()).reason is Reason.REVIEW_REJECTED


async def test_the_last_of_several_addresses_is_on_the_label(env):
    placed = await env.place_in(State.PREPARED)
    for street in ("1 First", "2 Second", "3 Third"):
        response = await placed.handle.execute_update(
            "update_address",
            {"new_address": NEW_ADDRESS | {"street": street}, "updated_by": "me"},
            result_type=RequestResult,
        )
        assert response.accepted
    await placed.resume(State.PREPARED)
    await placed.result()
    assert placed.stored.label.street == "3 Third"
    assert placed.stored.address_version == 4


async def test_an_approval_before_the_review_takes_effect_when_it_begins(env):
    placed = await env.place(hold=(Activity.RECEIVE,), review=ReviewMode.MANUAL)
    await placed.wait_until_held(Activity.RECEIVE)
    results = [
        await placed.handle.execute_update("approve_order", {"reviewer": name}, result_type=RequestResult)
        for name in ("eve", "bob")
    ]
    assert [result.accepted for result in results] == [True, False]
    placed.release(Activity.RECEIVE)
    assert (await placed.result()).outcome is State.COMPLETED
    assert placed.stored.reviewer == "eve"
    assert placed.stored.requests == [("approve_order", True), ("approve_order", False)]


async def test_a_rejection_after_an_early_approval_takes_effect_before_the_review(env):
    placed = await env.place(hold=(Activity.RECEIVE,), review=ReviewMode.MANUAL)
    await placed.wait_until_held(Activity.RECEIVE)
    await placed.handle.execute_update("approve_order", REQUESTS["approve_order"])
    response = await placed.handle.execute_update(
        "reject_order", REQUESTS["reject_order"], result_type=RequestResult
    )
    assert response.accepted
    assert (await placed.result()).reason is Reason.REVIEW_REJECTED
    assert placed.stored.charges == 0


@pytest.mark.parametrize("name", ["cancel_order", "approve_order", "update_address"])
async def test_a_request_whose_activity_ran_twice_is_applied_once(env, name):
    activity = {
        "cancel_order": Activity.ABORT,
        "approve_order": Activity.APPROVE,
        "update_address": Activity.CHANGE_ADDRESS,
    }[name]
    placed = await env.place({activity: [ResponseLost()]}, review=ReviewMode.MANUAL)
    await placed.wait_until_in_review()
    response = await placed.handle.execute_update(name, REQUESTS[name], result_type=RequestResult)
    assert response.accepted
    assert placed.stored.requests == [(name, True)]
    assert placed.stored.address_version == (2 if name == "update_address" else 1)
    await placed.resume(State.IN_REVIEW)
    await placed.result()


# --- Invalid requests ---------------------------------------------------------------------------------

INVALID_SIGNALS = [
    ("CancelOrder", []),
    ("CancelOrder", [{}]),
    ("CancelOrder", [{"reason": "", "cancelled_by": "me"}]),
    ("CancelOrder", [{"reason": "why"}]),
    ("CancelOrder", [{"reason": None, "cancelled_by": None}]),
    ("CancelOrder", [{"reason": 7, "cancelled_by": ["me"]}]),
    ("CancelOrder", ["cancel it"]),
    ("CancelOrder", [None]),
    ("UpdateAddress", []),
    ("ApproveOrder", []),
    ("RejectOrder", [None]),
    ("CancelOrder", [[1, 2]]),
    ("CancelOrder", [{"reason": "a\u0000b", "cancelled_by": "me"}]),
    ("CancelOrder", [{"reason": "x" * 5000, "cancelled_by": "me"}]),
    ("UpdateAddress", [{"new_address": "1 Main Street", "updated_by": "me"}]),
    ("UpdateAddress", [{"new_address": NEW_ADDRESS | {"zip": ""}, "updated_by": "me"}]),
    ("UpdateAddress", [{"new_address": {"street": "1"}, "updated_by": "me"}]),
    ("ApproveOrder", [{"reviewer": "  "}]),
    ("RejectOrder", [{"reviewer": "bob"}]),
    ("DispatchFailed", [{"reason": "no one at home"}]),
    ("DispatchFailed", []),
    ("DispatchFailed", [None]),
    ("NoSuchSignal", [{"reason": "why"}]),
]


@pytest.mark.parametrize(("signal", "arguments"), INVALID_SIGNALS, ids=lambda value: str(value)[:40])
async def test_an_invalid_signal_is_ignored(env, signal, arguments):
    placed = await env.place_in(State.RECEIVED)
    await placed.handle.signal(signal, args=arguments)
    assert (await placed.status()).abort_reason is None
    await placed.resume(State.RECEIVED)
    assert (await placed.result()).outcome is State.COMPLETED
    assert placed.stored.requests == []
    assert placed.stored.address == placed.order.initial_address


async def test_unknown_fields_of_a_signal_are_ignored(env):
    placed = await env.place_in(State.RECEIVED)
    await placed.handle.signal("CancelOrder", {**REQUESTS["cancel_order"], "colour": "blue"})
    assert (await placed.result()).reason is Reason.CUSTOMER_CANCELLED


async def test_a_dispatch_failed_signal_alone_does_not_abort_the_order(env):
    placed = await env.place_in(State.CHARGED)
    await placed.handle.signal("DispatchFailed", {"reason": "no one at home", "attempts": 3})
    await placed.resume(State.CHARGED)
    assert (await placed.result()).outcome is State.COMPLETED


@pytest.mark.parametrize(
    ("name", "request_"),
    [
        ("cancel_order", {"reason": "", "cancelled_by": "me"}),
        ("cancel_order", {"reason": "a\u0000b", "cancelled_by": "me"}),
        ("update_address", {"new_address": NEW_ADDRESS | {"city": ""}, "updated_by": "me"}),
        ("approve_order", {"reviewer": ""}),
        ("reject_order", {"reviewer": "bob", "reason": "\n"}),
    ],
)
async def test_an_invalid_update_is_rejected_and_not_recorded(env, name, request_):
    placed = await env.place_in(State.RECEIVED)
    with pytest.raises(WorkflowUpdateFailedError) as refused:
        await placed.handle.execute_update(name, request_)
    assert isinstance(refused.value.cause, ApplicationError)
    assert refused.value.cause.type == INVALID_REQUEST
    assert placed.stored.requests == []
    await placed.resume(State.RECEIVED)
    assert (await placed.result()).outcome is State.COMPLETED


@pytest.mark.parametrize(
    "arguments", [[], [{}], [{"reason": "why"}], ["cancel it"], [None], [{}, {}]], ids=str
)
async def test_an_update_with_wrong_arguments_is_rejected(env, arguments):
    placed = await env.place_in(State.RECEIVED)
    with pytest.raises((WorkflowUpdateFailedError, RPCError)):
        await placed.handle.execute_update("cancel_order", args=arguments)
    await placed.resume(State.RECEIVED)
    assert (await placed.result()).outcome is State.COMPLETED


# --- Operators ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", STATES)
async def test_a_workflow_cancellation_compensates_the_order_unless_it_is_dispatched(env, state):
    placed = await env.place_in(state)
    await placed.handle.cancel()
    if state is State.DISPATCHED:
        await placed.wait_until(lambda _: placed.count(Activity.ABORT) > 0)
        await placed.resume(state)
    result = await placed.result()
    if state is State.DISPATCHED:
        assert result.outcome is State.COMPLETED
    else:
        assert (result.outcome, result.reason) == (State.FAILED, Reason.TERMINATED)


async def test_a_workflow_cancellation_before_the_order_is_stored_aborts_it_afterwards(env):
    placed = await env.place(hold=(Activity.OPEN,))
    await placed.wait_until_held(Activity.OPEN)
    await placed.handle.cancel()
    placed.release(Activity.OPEN)
    assert (await placed.result()).reason is Reason.TERMINATED


async def test_a_workflow_cancellation_does_not_interrupt_the_compensation(env):
    placed = await env.place({Activity.CHARGE: [StepStatus.DECLINED]}, hold=(Activity.REFUND,))
    await placed.wait_until_held(Activity.REFUND)
    await placed.handle.cancel()
    await placed.wait_until(lambda _: placed.count(Activity.ABORT) > 1)
    placed.release(Activity.REFUND)
    result = await placed.result()
    assert (result.outcome, result.reason) == (State.FAILED, Reason.PAYMENT_DECLINED)


async def test_a_workflow_cancellation_after_the_outcome_changes_nothing(env):
    # The workflow only waits for the handler of a late request.
    placed = await env.place(hold=(Activity.FINISH, Activity.CHANGE_ADDRESS))
    await placed.wait_until_held(Activity.FINISH)
    await placed.handle.signal("UpdateAddress", REQUESTS["update_address"])
    await placed.wait_until_held(Activity.CHANGE_ADDRESS)
    placed.release(Activity.FINISH)
    await placed.wait_until(lambda stored: stored.state is State.COMPLETED)
    async with asyncio.timeout(60):
        while (await placed.status()).outcome is None:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    await placed.handle.cancel()
    await placed.status()
    placed.release(Activity.CHANGE_ADDRESS)
    assert (await placed.result()).outcome is State.COMPLETED


@pytest.mark.parametrize("name", ["update_address", "reject_order"])
async def test_an_order_handles_a_limited_number_of_requests_and_still_accepts_a_cancellation(env, name):
    state = State.IN_REVIEW if name == "update_address" else State.PREPARED
    placed = await env.place_in(state, limit_seconds=600.0)
    for _ in range(MAX_REQUESTS + 50):
        await placed.handle.signal(SIGNALS[name], REQUESTS[name])
    await placed.wait_until(lambda stored: len(stored.requests) >= MAX_REQUESTS)
    with pytest.raises(WorkflowUpdateFailedError) as rejected:
        await placed.handle.execute_update(name, REQUESTS[name])
    assert isinstance(rejected.value.cause, ApplicationError)
    assert rejected.value.cause.type == TOO_MANY_REQUESTS
    result = await placed.handle.execute_update(
        "cancel_order", REQUESTS["cancel_order"], result_type=RequestResult
    )
    assert result.accepted
    await placed.resume(state)
    assert (await placed.result()).outcome is State.CANCELLED
    assert len(placed.stored.requests) == MAX_REQUESTS + 1


# These need a real server: the time-skipping one does not report the termination of a child to its parent.


@pytest.mark.parametrize("how", ["terminate", "cancel"])
@pytest.mark.parametrize("held", [Activity.PREPARE, Activity.DISPATCH])
async def test_a_shipment_that_an_operator_ends_is_retried(real_env, how, held):
    placed = await real_env.place(hold=(held,))
    await placed.wait_until_held(held)
    child = real_env.client.get_workflow_handle(shipping_workflow_id(placed.id, 1))
    await (child.terminate("by an operator") if how == "terminate" else child.cancel())
    with pytest.raises(WorkflowFailureError):
        await child.result()
    placed.release(held)
    assert (await placed.result()).outcome is State.COMPLETED


async def test_an_order_whose_shipments_are_always_terminated_fails_and_is_compensated(real_env):
    placed = await real_env.place(hold=(Activity.DISPATCH,), limit_seconds=15.0)
    for n in itertools.count(1):
        await placed.wait_until(
            lambda stored, n=n: placed.count(Activity.DISPATCH) >= 2 * n or stored.abort_reason is not None
        )
        if placed.stored.abort_reason is not None:
            break
        child = real_env.client.get_workflow_handle(shipping_workflow_id(placed.id, n))
        await child.terminate("by an operator")
    result = await placed.result()
    assert placed.count(Activity.DISPATCH) >= 4
    assert (result.outcome, result.reason) == (State.FAILED, Reason.SHIPPING_FAILED)


async def test_the_status_query_returns_the_reason_and_the_outcome(env):
    placed = await env.place_in(State.CHARGED)
    await placed.handle.execute_update("cancel_order", REQUESTS["cancel_order"])
    await placed.result()
    status = await placed.handle.query(OrderWorkflow.status)
    assert (status.abort_reason, status.outcome) == (Reason.CUSTOMER_CANCELLED, State.CANCELLED)
