"""OrderRepository on PostgreSQL: aborts, approvals, address changes, and the trigger of table orders."""

import asyncio

import pytest

from db.domain import TERMINAL_STATES, Reason, State, Step
from db.errors import ValueRejected
from db.transitions import STATE_MACHINE
from tests.orders import (
    ADDRESS,
    COMPENSATION_DETAILS,
    DUE_STATE,
    OTHER_ADDRESS,
    RESTING_STATES,
    failed,
    ok,
)

# --- Requests -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [*RESTING_STATES, *TERMINAL_STATES])
@pytest.mark.parametrize("reason", Reason)
async def test_an_order_can_be_aborted_until_its_limit_for_the_reason(driver, state, reason):
    order_id = await driver.carry_to(state)
    events = await driver.events(order_id)
    decision = await driver.abort(order_id, reason)
    is_review = reason in (Reason.REVIEW_REJECTED, Reason.REVIEW_EXPIRED)
    in_time = State.APPROVED.is_past(state) if is_review else State.DISPATCHED.is_past(state)
    assert decision.accepted == in_time
    assert decision.state == state
    row = await driver.row(order_id)
    if in_time:
        assert decision.abort_reason is reason
        assert (row["abort_reason"], row["aborted_by"], row["state"]) == (reason, "tester", state)
        assert len(await driver.events(order_id)) == len(events) + 1
    else:
        assert decision.message.startswith("too late")
        assert row["abort_reason"] != reason or state.is_terminal


async def test_the_first_accepted_reason_is_kept(driver):
    order_id = await driver.carry_to(State.CHARGED)
    assert (await driver.abort(order_id, Reason.DEADLINE)).accepted
    decision = await driver.abort(order_id, Reason.CUSTOMER_CANCELLED)
    assert not decision.accepted
    assert decision.abort_reason is Reason.DEADLINE
    assert "was aborted (deadline)" in decision.message
    (event,) = await driver.events(order_id, "signal")
    assert (event["detail"]["signal"], event["detail"]["accepted"]) == ("cancel_order", False)


async def test_of_concurrent_aborts_exactly_one_is_accepted(driver):
    order_id = await driver.carry_to(State.CHARGED)
    reasons = [Reason.DEADLINE, Reason.CUSTOMER_CANCELLED, Reason.TERMINATED, Reason.SHIPPING_FAILED] * 4
    decisions = await asyncio.gather(*(driver.abort(order_id, reason) for reason in reasons))
    (winner,) = [decision for decision in decisions if decision.accepted]
    assert {decision.abort_reason for decision in decisions} == {winner.abort_reason}
    assert (await driver.row(order_id))["abort_reason"] == winner.abort_reason


async def test_a_repeated_request_id_gets_the_first_decision(driver):
    order_id = await driver.carry_to(State.CHARGED)
    first, second = [await driver.abort(order_id, request_id="same") for _ in range(2)]
    assert first.accepted
    assert second.accepted
    assert len(await driver.events(order_id, "signal")) == 1


async def test_requests_without_an_id_are_not_treated_as_repeated(driver):
    order_id = await driver.carry_to(State.CHARGED)
    first = await driver.repository.abort(order_id, Reason.DEADLINE, "system")
    second = await driver.repository.abort(order_id, Reason.TERMINATED, "system")
    assert (first.accepted, second.accepted) == (True, False)
    assert second.abort_reason is Reason.DEADLINE


@pytest.mark.parametrize("state", [*RESTING_STATES, *TERMINAL_STATES])
async def test_an_order_can_be_approved_only_in_review(driver, state):
    order_id = await driver.carry_to(state)
    decision = await driver.repository.approve(
        order_id, "eve", signal="approve_order", request_id="another approval"
    )
    assert decision.accepted == (state is State.IN_REVIEW)
    if decision.accepted:
        row = await driver.row(order_id)
        assert (row["state"], row["reviewer"], row["current_step"]) == ("approved", "eve", "charge")
        (event,) = await driver.events(order_id, "signal")
        assert (event["state"], event["detail"]["reviewer"]) == ("approved", "eve")


async def test_an_aborted_order_cannot_be_approved(driver):
    order_id = await driver.carry_to(State.IN_REVIEW)
    await driver.abort(order_id, Reason.REVIEW_REJECTED)
    decision = await driver.repository.approve(order_id, "eve", signal=None, request_id="r1")
    assert (decision.accepted, decision.abort_reason) == (False, Reason.REVIEW_REJECTED)


async def test_a_repeated_approval_gets_the_first_decision_and_a_second_reviewer_is_too_late(driver):
    order_id = await driver.carry_to(State.IN_REVIEW)
    for _ in range(2):
        decision = await driver.repository.approve(order_id, "eve", signal="approve_order", request_id="r1")
        assert (decision.accepted, decision.state) == (True, State.APPROVED)
    assert not (
        await driver.repository.approve(order_id, "bob", signal="approve_order", request_id="r2")
    ).accepted
    assert [event["detail"]["accepted"] for event in await driver.events(order_id, "signal")] == [True, False]


async def test_of_a_concurrent_approval_and_rejection_exactly_one_is_accepted(driver):
    for number in range(20):
        order_id = await driver.carry_to(State.IN_REVIEW)
        approval, rejection = await asyncio.gather(
            driver.repository.approve(order_id, "eve", signal="approve_order", request_id=f"a{number}"),
            driver.abort(order_id, Reason.REVIEW_REJECTED),
        )
        row = await driver.row(order_id)
        assert approval.accepted != rejection.accepted
        assert (row["state"] == "approved") == approval.accepted
        assert (row["abort_reason"] == "review_rejected") == rejection.accepted


@pytest.mark.parametrize("state", [*RESTING_STATES, *TERMINAL_STATES])
async def test_the_address_can_be_changed_until_dispatch(driver, state):
    order_id = await driver.carry_to(state)
    decision = await driver.change_address(order_id)
    row = await driver.row(order_id)
    assert decision.accepted == State.DISPATCHED.is_past(state)
    assert row["address_version"] == (2 if decision.accepted else 1)
    assert row["address"]["street"] == (OTHER_ADDRESS if decision.accepted else ADDRESS).street


async def test_the_address_of_an_aborted_order_cannot_be_changed(driver):
    order_id = await driver.carry_to(State.CHARGED)
    await driver.abort(order_id)
    assert not (await driver.change_address(order_id)).accepted


async def test_a_repeated_address_change_is_applied_once_even_after_a_later_one(driver):
    order_id = await driver.carry_to(State.CHARGED)
    assert (await driver.change_address(order_id, OTHER_ADDRESS, "r1")).accepted
    assert (await driver.change_address(order_id, ADDRESS, "r2")).accepted
    assert (await driver.change_address(order_id, OTHER_ADDRESS, "r1")).accepted
    row = await driver.row(order_id)
    assert (row["address_version"], row["address"]["street"]) == (3, ADDRESS.street)
    assert len(await driver.events(order_id, "signal")) == 2


async def test_a_change_that_is_based_on_a_replaced_address_is_rejected(driver):
    order_id = await driver.carry_to(State.CHARGED)
    assert (await driver.change_address(order_id, OTHER_ADDRESS, "r1", address_version=1)).accepted
    outdated = await driver.change_address(order_id, ADDRESS, "r2", address_version=1)
    assert (outdated.accepted, outdated.is_outdated) == (False, True)
    assert outdated.message == "the address has changed: it has version 2, not 1"
    row = await driver.row(order_id)
    assert (row["address_version"], row["address"]["street"]) == (2, OTHER_ADDRESS.street)
    # The repeat of an accepted change is accepted, although its version has been replaced by the change.
    repeated = await driver.change_address(order_id, OTHER_ADDRESS, "r1", address_version=1)
    assert (repeated.accepted, repeated.is_outdated) == (True, False)
    assert (await driver.change_address(order_id, ADDRESS, "r3", address_version=2)).accepted


async def test_a_late_change_is_too_late_whatever_its_version(driver):
    order_id = await driver.carry_to(State.DISPATCHED)
    late = await driver.change_address(order_id, address_version=7)
    assert (late.accepted, late.is_outdated) == (False, False)
    assert late.message.startswith("too late")


async def test_a_dispatch_with_an_outdated_label_takes_no_effect(driver):
    order_id = await driver.carry_to(State.PREPARED)
    attempt = await driver.repository.start_next_attempt(order_id, Step.DISPATCH)
    assert (await driver.change_address(order_id)).accepted
    assert not await driver.repository.complete_step(order_id, Step.DISPATCH, ok(1), attempt.address_version)
    again = await driver.repository.start_next_attempt(order_id, Step.DISPATCH, ok(1))
    assert (again.number, again.address_version, again.address) == (2, 2, OTHER_ADDRESS)
    assert await driver.repository.complete_step(order_id, Step.DISPATCH, ok(2), again.address_version)
    shipment = await driver.shipment(order_id)
    assert (shipment["label_version"], shipment["label_address"]["street"]) == (2, OTHER_ADDRESS.street)


@pytest.mark.parametrize("late_request", ["cancel", "address"])
async def test_of_a_concurrent_dispatch_and_request_exactly_one_takes_effect(driver, late_request):
    for _ in range(20):
        order_id = await driver.carry_to(State.PREPARED)
        await driver.repository.start_next_attempt(order_id, Step.DISPATCH)
        request = driver.abort(order_id) if late_request == "cancel" else driver.change_address(order_id)
        decision, dispatched = await asyncio.gather(
            request, driver.repository.complete_step(order_id, Step.DISPATCH, ok(1, tracking="T"), 1)
        )
        assert decision.accepted != dispatched


# --- The trigger --------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [*RESTING_STATES, *TERMINAL_STATES])
async def test_the_trigger_rejects_every_state_change_that_the_transition_table_does_not_have(
    driver, pool, state
):
    order_id = await driver.carry_to(state)
    for other in State:
        if state.is_terminal or (other is not state and (state, other) not in STATE_MACHINE.row_changes()):
            with pytest.raises(ValueRejected) as error:
                await pool.execute(
                    "update orders set state = %(other)s where order_id = %(id)s",
                    {"other": other, "id": order_id},
                )
            assert "cannot change" in error.value.cause


async def test_the_legal_state_changes_in_sql_are_those_of_the_transition_table(pool):
    rows = await pool.fetch_all(
        "select a, b from unnest(enum_range(null::order_state)) a, unnest(enum_range(null::order_state)) b"
        " where is_legal_transition(a, b)"
    )
    assert {(row["a"], row["b"]) for row in rows} == set(STATE_MACHINE.row_changes())


@pytest.mark.parametrize("state", TERMINAL_STATES)
async def test_no_statement_changes_a_finished_order(driver, state):
    order_id = await driver.carry_to(state)
    row, events = await driver.row(order_id), await driver.events(order_id)
    for step in (*DUE_STATE, *COMPENSATION_DETAILS):
        assert await driver.repository.start_next_attempt(order_id, step) is None
        assert await driver.repository.start_next_attempt(order_id, step, failed(1)) is None
        await driver.repository.end_attempt(order_id, step, failed(1))
        assert not await driver.repository.complete_step(order_id, step, ok(1), 1)
    assert not (await driver.abort(order_id)).accepted
    assert not (await driver.change_address(order_id)).accepted
    assert not (
        await driver.repository.approve(order_id, "eve", signal="approve_order", request_id="new")
    ).accepted
    await driver.repository.record_request(order_id, "approve_order", accepted=True)
    for outcome in TERMINAL_STATES:
        assert (await driver.repository.finish(order_id, outcome)).state is state
    assert await driver.row(order_id) == row
    assert await driver.events(order_id) == events
