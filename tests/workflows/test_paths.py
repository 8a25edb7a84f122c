"""Every path of an order from acceptance to an outcome."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest
from temporalio.client import WorkflowFailureError
from temporalio.exceptions import ApplicationError

from db.domain import Address, ExecutionMode, Item, Reason, RequestResult, ReviewMode, State, Step
from orchestrator.deadlines import SIMULATED_NEEDS
from orchestrator.messages.activities import Activity, StepStatus
from orchestrator.messages.ids import compensation_task_queue, order_workflow_id, shipping_workflow_id
from orchestrator.messages.orders import DUPLICATE_ORDER, INVALID_ORDER, OrderResult
from orchestrator.messages.requests import UpdateAddress
from orchestrator.testing import COMPLETION_MS, DoneButReturns, InMemoryOrder, ResponseLost
from orchestrator.workflows.order import MAX_SHIPMENTS, SHIPPING_RETRY_DELAY, OrderWorkflow
from orchestrator.workflows.order_steps import ABORT_GRACE
from tests.orders import OTHER_ADDRESS, new_order
from tests.workflows.conftest import ORDER_QUEUE
from tests.workflows.held_activities import FORWARD_ACTIVITIES, STEP_ACTIVITY_NAMES

SHORT = 6.0
"""A limit in seconds, short enough for the server that does not skip time, and long enough for the steps
before the one that a test holds."""


ONE_SHIPMENT = {
    "limit_seconds": 600.0,
    "time_needs": replace(
        SIMULATED_NEEDS, steps=dict.fromkeys(SIMULATED_NEEDS.steps, 0.0) | {"dispatch": 600.0}
    ),
}
"""Limits of an order with time for one shipment, but not for another one, however slow the machine is."""

ALWAYS_DECLINED = [StepStatus.DECLINED] * 100
"""Every call of the carrier or the warehouse is declined."""


@pytest.fixture(params=list(ExecutionMode))
def env(fast_env, request):
    """An environment for each execution mode."""
    return fast_env.executing(request.param)


async def test_an_order_runs_every_step_and_completes(env):
    placed = await env.place()
    assert await placed.result() == OrderResult(placed.id, State.COMPLETED, None, COMPLETION_MS)
    assert placed.stored.states == [state for state in State if state not in (State.CANCELLED, State.FAILED)]
    assert [name for name, _ in placed.calls] == [
        Activity.OPEN,
        Activity.RECEIVE,
        Activity.VALIDATE,
        Activity.APPROVE,
        Activity.CHARGE,
        Activity.PREPARE,
        Activity.DISPATCH,
        Activity.FINISH,
    ]
    is_fast = env.execution is ExecutionMode.FAST
    assert all(is_local is (is_fast or name not in STEP_ACTIVITY_NAMES) for name, is_local in placed.calls)


async def test_the_deadline_counts_from_acceptance_not_from_the_first_workflow_task(env):
    order = new_order(auto_review_seconds=0.0)
    handle = await env.client.start_workflow(
        OrderWorkflow.run,
        order,
        id=order_workflow_id(order.order_id),
        task_queue=ORDER_QUEUE,
        # Delays the first workflow task.
        start_delay=timedelta(seconds=1),
    )
    await handle.result()
    accepted_at = (await handle.describe()).start_time
    deadline_at = (await handle.query(OrderWorkflow.status)).deadline_at
    behind = timedelta(microseconds=accepted_at.microsecond % 1000)
    assert deadline_at == accepted_at - behind + timedelta(seconds=order.limit_seconds)


async def test_the_status_query_returns_the_current_and_completed_steps(env):
    placed = await env.place(hold=(Activity.RECEIVE, Activity.CHARGE, Activity.DISPATCH, Activity.FINISH))
    seen = []
    for name in (Activity.RECEIVE, Activity.CHARGE, Activity.DISPATCH, Activity.FINISH):
        await placed.wait_until_held(name)
        status = await placed.status()
        seen.append((status.current_step, status.completed_steps))
        placed.release(name)
    first = [Step.RECEIVE, Step.VALIDATE, Step.REVIEW]
    assert seen == [
        (Step.RECEIVE, []),
        (Step.CHARGE, first),
        # The workflow sees both steps of its child as one.
        (Step.PREPARE, [*first, Step.CHARGE]),
        (Step.FINISH, [*first, Step.CHARGE, Step.PREPARE, Step.DISPATCH]),
    ]
    await placed.result()
    status = await placed.status()
    assert (status.order_id, status.current_step, status.outcome) == (placed.id, None, State.COMPLETED)
    assert status.abort_reason is None


# --- Review -------------------------------------------------------------------------------------------


async def test_the_simulated_reviewer_approves_after_its_time(env):
    placed = await env.place(auto_review_seconds=2.0)
    assert (await placed.result()).outcome is State.COMPLETED
    assert placed.stored.reviewer == "auto-review"


async def test_the_simulated_reviewer_approves_in_time_for_the_deadline(env):
    placed = await env.place(auto_review_seconds=3600.0, limit_seconds=9.0)
    assert (await placed.result()).outcome is State.COMPLETED


async def test_a_manual_review_waits_for_a_person(env):
    placed = await env.place_in(State.IN_REVIEW)
    await placed.handle.signal("ApproveOrder", {"reviewer": "eve"})
    assert (await placed.result()).outcome is State.COMPLETED
    assert placed.stored.reviewer == "eve"


async def test_a_manual_review_without_a_decision_expires_and_nothing_is_charged(env):
    placed = await env.place(review=ReviewMode.MANUAL, limit_seconds=5.0)
    result = await placed.result()
    assert (result.outcome, result.reason) == (State.CANCELLED, Reason.REVIEW_EXPIRED)
    assert placed.count(Activity.CHARGE) == placed.count(Activity.REFUND) == placed.stored.charges == 0


@pytest.mark.parametrize("first", ["ApproveOrder", "RejectOrder"])
async def test_the_first_of_an_approval_and_a_rejection_decides(env, first):
    placed = await env.place_in(State.IN_REVIEW, hold=(Activity.FINISH,))
    signals = {"ApproveOrder": {"reviewer": "eve"}, "RejectOrder": {"reviewer": "bob", "reason": "no"}}
    second = next(name for name in signals if name != first)
    await placed.handle.signal(first, signals[first])
    await placed.wait_until(lambda stored: len(stored.requests) == 1)
    await placed.handle.signal(second, signals[second])
    placed.release(Activity.FINISH)
    result = await placed.result()
    assert result.outcome is (State.COMPLETED if first == "ApproveOrder" else State.CANCELLED)


async def test_a_simultaneous_approval_and_rejection_lead_to_one_outcome(env):
    placed = await env.place(hold=(Activity.OPEN,), review=ReviewMode.MANUAL)
    await placed.wait_until_held(Activity.OPEN)
    await placed.handle.signal("RejectOrder", {"reviewer": "bob", "reason": "no"})
    await placed.handle.signal("ApproveOrder", {"reviewer": "eve"})
    placed.release(Activity.OPEN)
    result = await placed.result()
    assert (result.outcome, result.reason) in (
        (State.COMPLETED, None),
        (State.CANCELLED, Reason.REVIEW_REJECTED),
    )


# --- Failures ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (Activity.RECEIVE, Reason.VALIDATION_FAILED),
        (Activity.VALIDATE, Reason.VALIDATION_FAILED),
        (Activity.CHARGE, Reason.PAYMENT_DECLINED),
    ],
)
async def test_a_declined_step_fails_the_order(env, name, reason):
    placed = await env.place({name: [StepStatus.DECLINED]})
    result = await placed.result()
    assert (result.outcome, result.reason) == (State.FAILED, reason)
    assert placed.stored.abort.message == "scripted declined"
    assert placed.count(Activity.REFUND) == (1 if name is Activity.CHARGE else 0)
    assert placed.count(Activity.RECALL) == 0


async def test_a_declined_address_that_was_changed_is_shipped_in_a_new_child_workflow(env):
    placed = await env.place({Activity.DISPATCH: [StepStatus.DECLINED]}, hold=(Activity.DISPATCH,))
    await placed.wait_until_held(Activity.DISPATCH)
    # The call that is declined has the old address.
    await placed.handle.execute_update(
        "update_address", UpdateAddress(OTHER_ADDRESS, "customer"), result_type=RequestResult
    )
    placed.release(Activity.DISPATCH)
    assert (await placed.result()).outcome is State.COMPLETED
    assert placed.stored.label == OTHER_ADDRESS
    for n in (1, 2):
        child = await env.client.get_workflow_handle(shipping_workflow_id(placed.id, n)).describe()
        assert child.status is not None
        assert child.status.name == "COMPLETED"


async def test_an_address_that_is_changed_while_validation_declines_it_is_validated_again(env):
    placed = await env.place({Activity.VALIDATE: [StepStatus.DECLINED]}, hold=(Activity.VALIDATE,))
    await placed.wait_until_held(Activity.VALIDATE)
    await placed.handle.signal("UpdateAddress", UpdateAddress(OTHER_ADDRESS, "customer"))
    await placed.wait_until(lambda stored: stored.address == OTHER_ADDRESS)
    placed.release(Activity.VALIDATE)
    assert (await placed.result()).outcome is State.COMPLETED


async def test_shipping_is_retried_with_growing_delays_while_there_is_time(env):
    placed = await env.place({Activity.DISPATCH: [StepStatus.OUT_OF_TIME] * 5}, limit_seconds=60.0)
    assert (await placed.result()).outcome is State.COMPLETED
    assert placed.count(Activity.DISPATCH) == 6
    delays = await retry_timers(placed)
    assert [end for _, end in delays] == ["timer_fired_event_attributes"] * 5
    for retries, (delay, _) in enumerate(delays):
        assert SHIPPING_RETRY_DELAY * 2**retries / 2 <= delay <= SHIPPING_RETRY_DELAY * 2**retries


async def retry_timers(placed):
    """Return each delay between shipments and how its timer ended; None while it runs."""
    found = {}
    for event in (await placed.handle.fetch_history()).events:
        started = event.timer_started_event_attributes
        delay = started.start_to_fire_timeout.ToTimedelta()
        # Neither the deadline nor the grace of an aborted step.
        if timedelta(0) < delay < timedelta(seconds=10) and delay != ABORT_GRACE:
            found[started.timer_id] = (delay, None)
        for end in ("timer_fired_event_attributes", "timer_canceled_event_attributes"):
            if event.HasField(end) and (timer := getattr(event, end).timer_id) in found:
                found[timer] = (found[timer][0], end)
    return list(found.values())


async def test_a_cancellation_ends_the_delay_between_two_shipments(real_env):
    # On a busy machine the cancellation can arrive after the delay; then the test tries another order.
    for _ in range(5):
        placed = await real_env.place({Activity.DISPATCH: [StepStatus.OUT_OF_TIME] * 100})
        async with asyncio.timeout(60):
            while not any(end is None for _, end in await retry_timers(placed)):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        await placed.handle.signal("CancelOrder", {"reason": "why", "cancelled_by": "me"})
        result = await placed.result()
        assert (result.outcome, result.reason) == (State.CANCELLED, Reason.CUSTOMER_CANCELLED)
        if (await retry_timers(placed))[-1][1] == "timer_canceled_event_attributes":
            return
    pytest.fail("no cancellation arrived during a delay")


@pytest.mark.parametrize("name", [Activity.PREPARE, Activity.DISPATCH])
async def test_a_final_decline_ends_the_order_and_it_is_refunded_and_recalled(env, name, caplog):
    caplog.set_level("INFO", logger="temporalio.workflow")
    placed = await env.place({name: ALWAYS_DECLINED}, limit_seconds=3_600.0)
    result = await placed.result()
    assert (result.outcome, result.reason) == (State.FAILED, Reason.SHIPPING_FAILED)
    assert placed.count(name) == 1
    logged = [line for line in caplog.records if getattr(line, "order_id", None) == placed.id]
    # From the DispatchFailed signal of the child.
    assert [(line.step, line.attempts, line.reason) for line in logged] == [
        (Step.PREPARE, 1, "scripted declined")
    ]
    assert (placed.stored.charges, placed.stored.refunds) == (1, 1)
    assert Step.RECALL in placed.stored.gateway_calls
    assert placed.stored.abort.message == "scripted declined"


# --- The size of the history --------------------------------------------------------------------------

HISTORY_LIMIT = 2_000
"""Events of a workflow's history. Temporal warns at 10,240 and ends the workflow at 51,200."""


async def history_length(placed) -> int:
    return len((await placed.handle.fetch_history()).events)


async def test_shipments_that_fail_for_an_hour_leave_a_short_history(env):
    placed = await env.place({Activity.DISPATCH: [StepStatus.OUT_OF_TIME] * 10_000}, limit_seconds=3_600.0)
    result = await placed.result()
    assert (result.outcome, result.reason) == (State.FAILED, Reason.SHIPPING_FAILED)
    assert placed.count(Activity.DISPATCH) == MAX_SHIPMENTS
    assert await history_length(placed) < HISTORY_LIMIT


async def test_a_charge_and_a_refund_that_fail_for_long_leave_a_short_history(env):
    placed = await env.place(
        {
            Activity.CHARGE: [RuntimeError("scripted")] * 100_000,
            Activity.REFUND: [RuntimeError("scripted")] * 20,
        },
        limit_seconds=60.0,
    )
    result = await placed.result()
    assert (result.outcome, result.reason) == (State.FAILED, Reason.DEADLINE)
    assert placed.count(Activity.REFUND) == 21
    assert await history_length(placed) < 60


@pytest.mark.parametrize("name", FORWARD_ACTIVITIES)
async def test_a_step_without_time_left_aborts_the_order(env, name):
    placed = await env.place({name: [StepStatus.OUT_OF_TIME] * 9}, **ONE_SHIPMENT)
    result = await placed.result()
    assert (result.outcome, result.reason) == (State.FAILED, Reason.DEADLINE)


async def test_a_shipment_out_of_time_is_retried_while_there_is_time(env):
    placed = await env.place({Activity.PREPARE: [StepStatus.OUT_OF_TIME]}, limit_seconds=600.0)
    assert (await placed.result()).outcome is State.COMPLETED


async def test_an_uncharged_order_fails_at_its_deadline_without_compensation(env):
    placed = await env.place(hold=(Activity.RECEIVE,), limit_seconds=SHORT)
    result = await placed.result()
    assert (result.outcome, result.reason) == (State.FAILED, Reason.DEADLINE)
    assert placed.count(Activity.REFUND) == placed.count(Activity.RECALL) == 0


@pytest.mark.parametrize("name", [Activity.PREPARE, Activity.DISPATCH])
async def test_a_charged_order_is_refunded_and_recalled_at_its_deadline(env, name):
    placed = await env.place(hold=(name,), limit_seconds=SHORT)
    result = await placed.result()
    assert (result.outcome, result.reason) == (State.FAILED, Reason.DEADLINE)
    assert (placed.stored.charges, placed.stored.refunds) == (1, 1)


async def test_without_a_shipping_worker_the_order_is_refunded_at_its_deadline(env):
    placed = await env.place(shipping_task_queue="no-worker", limit_seconds=SHORT)
    result = await placed.result()
    assert (result.outcome, result.reason) == (State.FAILED, Reason.DEADLINE)
    assert (placed.stored.charges, placed.stored.refunds) == (1, 1)


@pytest.mark.parametrize("name", [Activity.CHARGE, Activity.PREPARE, Activity.DISPATCH])
async def test_gateway_work_that_was_not_stored_is_compensated(env, name):
    placed = await env.place(
        {name: [DoneButReturns(StepStatus.OUT_OF_TIME, is_stored=False)] * 9}, **ONE_SHIPMENT
    )
    result = await placed.result()
    assert (result.outcome, result.reason) == (State.FAILED, Reason.DEADLINE)
    assert placed.stored.charges == placed.stored.refunds == 1


async def test_a_stored_dispatch_that_was_not_reported_completes_the_order(env):
    # The worker stored the dispatch and died before it could report to the workflow.
    placed = await env.place(
        {Activity.DISPATCH: [DoneButReturns(StepStatus.OUT_OF_TIME, is_stored=True)] * 9}, **ONE_SHIPMENT
    )
    assert (await placed.result()).outcome is State.COMPLETED


async def test_a_stored_dispatch_that_was_not_reported_completes_the_order_at_the_next_shipment(env):
    placed = await env.place(
        {Activity.DISPATCH: [DoneButReturns(StepStatus.OUT_OF_TIME, is_stored=True)] * 2}, limit_seconds=600.0
    )
    assert (await placed.result()).outcome is State.COMPLETED


@pytest.mark.parametrize("name", FORWARD_ACTIVITIES)
async def test_a_step_that_fails_until_its_time_is_over_aborts_the_order(env, name):
    # As with an unavailable database: the activity cannot return OUT_OF_TIME either.
    placed = await env.place({name: [RuntimeError("scripted")] * 500}, limit_seconds=SHORT)
    result = await placed.result()
    assert (result.outcome, result.reason) == (State.FAILED, Reason.DEADLINE)


# --- Local and regular activities -----------------------------------------------------------------------


@pytest.mark.parametrize("name", STEP_ACTIVITY_NAMES)
async def test_a_step_that_is_unfinished_locally_continues_as_a_regular_activity(fast_env, name):
    scripts = {name: [StepStatus.UNFINISHED]}
    if name in (Activity.REFUND, Activity.RECALL):
        scripts[Activity.DISPATCH] = ALWAYS_DECLINED
    placed = await fast_env.place(scripts)
    await placed.result()
    assert [is_local for called, is_local in placed.calls if called is name][:2] == [True, False]


@pytest.mark.parametrize("failure", [RuntimeError("scripted"), ResponseLost()], ids=["error", "lost-answer"])
@pytest.mark.parametrize(
    "name", [*STEP_ACTIVITY_NAMES, Activity.OPEN, Activity.APPROVE, Activity.ABORT, Activity.FINISH]
)
async def test_each_activity_can_run_twice(env, name, failure):
    scripts = {name: [failure]}
    is_aborted = name in (Activity.REFUND, Activity.RECALL, Activity.ABORT)
    if is_aborted:
        scripts[Activity.DISPATCH] = ALWAYS_DECLINED
    placed = await env.place(scripts)
    result = await placed.result()
    assert result.outcome is (State.FAILED if is_aborted else State.COMPLETED)
    assert placed.stored.charges == 1
    is_local_first = env.execution is ExecutionMode.FAST or name not in STEP_ACTIVITY_NAMES
    assert [is_local for called, is_local in placed.calls if called is name] == [is_local_first, False]


@pytest.mark.parametrize("name", [Activity.RECEIVE, Activity.VALIDATE, Activity.CHARGE])
async def test_a_non_retryable_error_of_a_step_aborts_the_order(env, name):
    placed = await env.place({name: [ApplicationError("scripted", non_retryable=True)] * 2})
    result = await placed.result()
    assert (result.outcome, result.reason) == (State.FAILED, Reason.INTERNAL_ERROR)
    assert placed.stored.abort.message == "scripted"
    assert placed.count(Activity.REFUND) == (1 if name is Activity.CHARGE else 0)


async def test_a_non_retryable_error_while_opening_keeps_its_type(env):
    error = ApplicationError("scripted", type="SomethingElse", non_retryable=True)
    placed = await env.place({Activity.OPEN: [error] * 2})
    with pytest.raises(WorkflowFailureError) as failure:
        await placed.handle.result()
    assert _cause(failure).type == "SomethingElse"


async def test_a_compensation_continues_on_a_task_queue_of_its_own(fast_env):
    placed = await fast_env.place(
        {Activity.CHARGE: [StepStatus.DECLINED], Activity.REFUND: [StepStatus.UNFINISHED]}
    )
    await placed.result()
    scheduled = [
        event.activity_task_scheduled_event_attributes
        for event in (await placed.handle.fetch_history()).events
        if event.HasField("activity_task_scheduled_event_attributes")
    ]
    assert [(each.activity_type.name, each.task_queue.name) for each in scheduled] == [
        (Activity.REFUND, compensation_task_queue(ORDER_QUEUE))
    ]


async def test_a_compensation_is_retried_until_it_succeeds(env):
    placed = await env.place(
        {
            Activity.DISPATCH: ALWAYS_DECLINED,
            Activity.REFUND: [RuntimeError("scripted")] * 4,
            Activity.RECALL: [RuntimeError("scripted")] * 3,
        },
    )
    result = await placed.result()
    assert (result.outcome, result.reason) == (State.FAILED, Reason.SHIPPING_FAILED)
    assert (placed.count(Activity.REFUND), placed.count(Activity.RECALL)) == (5, 4)


async def test_an_unavailable_database_delays_the_outcome(env):
    placed = await env.place({Activity.FINISH: [RuntimeError("scripted")] * 6})
    assert (await placed.result()).outcome is State.COMPLETED


# --- Rejected orders ----------------------------------------------------------------------------------------


def _cause(failure) -> ApplicationError:
    assert isinstance(failure.value.cause, ApplicationError)
    return failure.value.cause


@pytest.mark.parametrize(
    "change",
    [
        {"items": []},
        {"items": [Item("A", 0, 1)]},
        {"initial_address": Address("", "Town", "CA", "90001")},
        {"payment_id": " "},
    ],
    ids=lambda change: next(iter(change)),
)
async def test_an_invalid_order_is_rejected_and_not_stored(env, change):
    placed = await env.place(**change)
    with pytest.raises(WorkflowFailureError) as failure:
        await placed.handle.result()
    assert _cause(failure).type == INVALID_ORDER
    assert placed.id not in env.activities.orders
    assert placed.calls == []


@pytest.mark.parametrize("limit_seconds", [0.0, -5.0, float("nan"), float("inf"), 1e300], ids=str)
async def test_an_order_with_an_invalid_limit_is_rejected(env, limit_seconds):
    placed = await env.place(limit_seconds=limit_seconds)
    with pytest.raises(WorkflowFailureError) as failure:
        await placed.handle.result()
    assert _cause(failure).type == INVALID_ORDER


async def test_an_order_under_another_workflow_id_is_rejected(env):
    order = new_order()
    handle = await env.client.start_workflow(
        OrderWorkflow.run, order, id=order_workflow_id(f"{order.order_id}-again"), task_queue=ORDER_QUEUE
    )
    with pytest.raises(WorkflowFailureError) as failure:
        await handle.result()
    assert _cause(failure).type == INVALID_ORDER
    assert order.order_id not in env.activities.orders


@pytest.mark.parametrize("signalled", [False, True], ids=["alone", "with-signals"])
async def test_a_duplicate_order_is_rejected_and_the_first_one_unchanged(env, signalled):
    order = new_order()
    before = InMemoryOrder(order.order_id, "an earlier run", order.initial_address, state=State.COMPLETED)
    env.activities.orders[order.order_id] = before
    placed = await env.place(hold=(Activity.OPEN,), order_id=order.order_id)
    await placed.wait_until_held(Activity.OPEN)
    if signalled:
        await placed.handle.signal("CancelOrder", {"reason": "why", "cancelled_by": "me"})
        await placed.handle.signal("ApproveOrder", {"reviewer": "me"})
    placed.release(Activity.OPEN)
    with pytest.raises(WorkflowFailureError) as failure:
        await placed.handle.result()
    assert _cause(failure).type == DUPLICATE_ORDER
    assert {name for name, _ in placed.calls} == {Activity.OPEN}
    assert env.activities.orders[order.order_id] is before
