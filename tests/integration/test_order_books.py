"""The statements of the books, each against the rules it must hold, on a real PostgreSQL."""

import asyncio
import itertools
import random
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from db.domain import SAMPLE_ITEMS, AttemptOutcome, Item, Reason, ReviewMode, State, Step
from db.orders import DUE_STATE, STATE_AFTER, OrderRepository, StaleAttempt
from db.transitions import STATE_MACHINE
from tests.orders import ADDRESS, OTHER_ADDRESS, RESTING_STATES, OrderDriver, failed, new_order, ok, row_of

PARTS = ("receive_ms", "validate_ms", "review_ms", "charge_ms", "prepare_ms", "dispatch_ms", "compensate_ms")
TERMINAL = (State.COMPLETED, State.CANCELLED, State.FAILED)
UNDOING = {Step.REFUND: {"refund_outcome": "refunded"}, Step.RECALL: {}}


@pytest.fixture(scope="module")
def driver(repository, pool):
    return OrderDriver(repository, pool)


async def undo(driver: OrderDriver, order_id: str) -> None:
    for step, detail in UNDOING.items():
        assert await driver.step(order_id, step, **detail)


def strictly_increasing(events) -> bool:
    times = [event["at"] for event in events]
    return all(earlier < later for earlier, later in itertools.pairwise(times))


# --- Opening ----------------------------------------------------------------------------------------


async def test_an_order_is_opened_once_however_often_its_run_says_so(driver):
    order = new_order(run_id="run-7", items=[Item("A", 2, 150), Item("B", 1, 1)])
    now = datetime.now(UTC)
    for _ in range(3):
        assert await driver.repository.insert_order(row_of(order, "workflow-run", now))
    row = await driver.row(order.order_id)
    assert (row["state"], row["amount_cents"], row["run_id"], row["fingerprint"]) == (
        "received",
        301,
        "run-7",
        order.fingerprint,
    )
    (event,) = await driver.events(order.order_id)
    assert (event["kind"], event["state"], event["worker"]) == ("accepted", "received", "worker-1")
    assert (await driver.payment(order.order_id))["status"] == "pending"


async def test_an_order_of_an_earlier_workflow_run_is_not_ours(driver):
    order = new_order()
    await driver.open(order)
    now = datetime.now(UTC)
    assert not await driver.repository.insert_order(row_of(order, "another-run", now))
    assert len(await driver.events(order.order_id)) == 1


async def test_ten_at_once_open_one_order(driver):
    order, now = new_order(), datetime.now(UTC)
    taken = await asyncio.gather(
        *(driver.repository.insert_order(row_of(order, f"run-{n}", now)) for n in range(10))
    )
    assert sorted(taken) == [False] * 9 + [True]
    assert len(await driver.events(order.order_id)) == 1


async def test_a_payment_id_belongs_to_the_first_order_that_names_it(driver):
    first = new_order()
    second = new_order(payment_id=first.payment_id)
    for order in (first, second):
        await driver.open(order)
    assert (await driver.repository.snapshot(first.order_id)).owns_payment
    assert not (await driver.repository.snapshot(second.order_id)).owns_payment


async def test_the_moments_are_kept_in_whole_milliseconds_and_no_order_is_due_after_its_acceptance(driver):
    accepted_at = datetime.now(UTC).replace(microsecond=123_000)
    order = new_order(requested_at=accepted_at + timedelta(seconds=5))
    await driver.open(order, accepted_at=accepted_at)
    row = await driver.row(order.order_id)
    assert row["accepted_at"] == row["requested_at"] == accepted_at
    assert row["deadline_at"] == accepted_at + timedelta(seconds=15)


async def test_an_unknown_order_has_no_standing(driver):
    assert await driver.repository.snapshot("nobody") is None
    with pytest.raises(LookupError):
        await driver.repository.finish("nobody", State.COMPLETED)
    with pytest.raises(LookupError):
        await driver.abort("nobody")
    assert await driver.repository.start_next_attempt("nobody", Step.RECEIVE) is None


@pytest.mark.parametrize(
    "change",
    [
        {"initial_address": OTHER_ADDRESS},
        {"items": [Item("B", 1, 1)]},
        {"payment_id": "another"},
        {"review": ReviewMode.MANUAL},
    ],
    ids=lambda change: next(iter(change)),
)
def test_the_fingerprint_differs_with_what_was_ordered(change):
    order = new_order()
    assert replace(order, **change).fingerprint != order.fingerprint


def test_the_fingerprint_does_not_depend_on_when_and_by_which_test_an_order_was_sent():
    order = new_order()
    later = replace(
        order, requested_at=order.requested_at + timedelta(days=1), run_id="r", items=list(SAMPLE_ITEMS)
    )
    assert later.fingerprint == order.fingerprint


# --- StepRunner ---------------------------------------------------------------------------------------


async def test_an_attempt_is_told_what_its_call_needs(driver):
    order = new_order(items=[Item("A", 2, 150)])
    await driver.open(order)
    attempt = await driver.repository.start_next_attempt(order.order_id, Step.RECEIVE)
    assert (attempt.number, attempt.order_id, attempt.payment_id) == (1, order.order_id, order.payment_id)
    assert (attempt.amount_cents, attempt.items) == (300, [Item("A", 2, 150)])
    assert (attempt.address, attempt.address_version) == (ADDRESS, 1)
    assert (await driver.row(order.order_id))["current_step"] == "receive"


async def test_the_next_attempt_closes_the_one_before_and_numbers_on(driver):
    order_id = await driver.open()
    ended = None
    for number, outcome in enumerate([*AttemptOutcome][1:4], start=1):
        attempt = await driver.repository.start_next_attempt(order_id, Step.RECEIVE, ended)
        assert attempt.number == number
        ended = failed(number, outcome, duration_ms=12.5)
    assert (await driver.repository.start_next_attempt(order_id, Step.RECEIVE, ended)).number == 4
    assert await driver.attempts(order_id) == [
        ("receive", 1, "error"),
        ("receive", 2, "timeout"),
        ("receive", 3, "declined"),
    ]
    first = (await driver.events(order_id, "attempt"))[0]
    assert (first["duration_ms"], first["detail"]) == (12.5, {"error": "simulated error"})


async def test_an_attempt_whose_worker_never_came_back_is_closed_as_lost_under_its_name(driver, pool):
    order_id = await driver.open()
    await OrderRepository(pool, "dead-worker").start_next_attempt(order_id, Step.RECEIVE)
    assert (await driver.repository.start_next_attempt(order_id, Step.RECEIVE)).number == 2
    assert await driver.attempts(order_id) == [("receive", 1, "lost")]
    (event,) = await driver.events(order_id, "attempt")
    assert event["worker"] == "dead-worker"
    assert event["duration_ms"] == pytest.approx(
        (event["at"] - event["started_at"]).total_seconds() * 1000, abs=0.01
    )


async def test_a_worker_whose_step_was_taken_over_is_superseded(driver):
    order_id = await driver.open()
    await driver.repository.start_next_attempt(order_id, Step.RECEIVE)
    await driver.repository.start_next_attempt(order_id, Step.RECEIVE)
    with pytest.raises(StaleAttempt):
        await driver.repository.start_next_attempt(order_id, Step.RECEIVE, failed(1))
    assert (await driver.repository.start_next_attempt(order_id, Step.RECEIVE, failed(2))).number == 3
    assert await driver.attempts(order_id) == [("receive", 1, "lost"), ("receive", 2, "error")]


async def test_a_closed_attempt_is_not_closed_again_and_the_next_numbers_on(driver):
    order_id = await driver.open()
    await driver.repository.start_next_attempt(order_id, Step.RECEIVE)
    for _ in range(2):
        await driver.repository.end_attempt(order_id, Step.RECEIVE, failed(1))
    assert (await driver.repository.start_next_attempt(order_id, Step.RECEIVE)).number == 2
    assert await driver.attempts(order_id) == [("receive", 1, "error")]


@pytest.mark.parametrize("state", [*RESTING_STATES, *TERMINAL])
async def test_a_forward_step_is_only_begun_in_the_state_in_which_it_is_due(driver, state):
    order_id = await driver.carry_to(state)
    before, events = await driver.row(order_id), await driver.events(order_id)
    for step in DUE_STATE:
        if step != before["current_step"]:
            assert await driver.repository.start_next_attempt(order_id, step) is None
    assert await driver.row(order_id) == before
    assert await driver.events(order_id) == events
    due = [step for step in DUE_STATE if step == before["current_step"]]
    assert [DUE_STATE[step] for step in due] == [state] * len(due)
    for step in due:
        assert await driver.repository.start_next_attempt(order_id, step) is not None


async def test_a_completed_receive_is_not_due_again_and_validate_is_due_only_after_it(driver):
    order_id = await driver.open()
    assert await driver.repository.start_next_attempt(order_id, Step.VALIDATE) is None
    assert await driver.step(order_id, Step.RECEIVE)
    assert (await driver.row(order_id))["state"] == "received"
    assert (await driver.repository.snapshot(order_id)).has_completed(Step.RECEIVE)
    assert await driver.repository.start_next_attempt(order_id, Step.RECEIVE) is None
    assert await driver.repository.start_next_attempt(order_id, Step.VALIDATE) is not None


async def test_a_success_that_another_worker_closed_as_lost_moves_the_order_on_as_a_state_event(driver):
    order_id = await driver.carry_to(State.APPROVED)
    for _ in range(2):
        await driver.repository.start_next_attempt(order_id, Step.CHARGE)
    assert await driver.repository.complete_step(order_id, Step.CHARGE, ok(1))
    assert await driver.attempts(order_id, Step.CHARGE) == [("charge", 1, "lost")]
    event = (await driver.events(order_id))[-1]
    assert (event["kind"], event["state"], event["attempt"], event["outcome"]) == (
        "state",
        "charged",
        None,
        None,
    )
    await driver.repository.end_attempt(order_id, Step.CHARGE, ok(2))
    assert await driver.attempts(order_id, Step.CHARGE) == [("charge", 1, "lost"), ("charge", 2, "ok")]


@pytest.mark.parametrize("state", RESTING_STATES[:-1])
async def test_once_turned_back_only_compensations_are_begun(driver, state):
    order_id = await driver.carry_to(state)
    for step in UNDOING:
        assert await driver.repository.start_next_attempt(order_id, step) is None
    assert (await driver.abort(order_id)).accepted
    for step in DUE_STATE:
        assert await driver.repository.start_next_attempt(order_id, step) is None
    for step in UNDOING:
        assert (await driver.repository.start_next_attempt(order_id, step)).number == 1


@pytest.mark.parametrize("state", [State.DISPATCHED, *TERMINAL])
async def test_nothing_is_undone_after_dispatch_nor_after_the_outcome(driver, state):
    order_id = await driver.carry_to(state)
    for step in UNDOING:
        assert await driver.repository.start_next_attempt(order_id, step) is None
        assert not await driver.repository.complete_step(order_id, step, ok(1))


# --- Steps that worked ------------------------------------------------------------------------------


@pytest.mark.parametrize("step", DUE_STATE)
async def test_a_step_that_worked_is_recorded_once_however_often_it_is_said(driver, step):
    order_id = await driver.carry_to_due(step)
    attempt = await driver.repository.start_next_attempt(order_id, step)
    version = 1 if step is Step.DISPATCH else None
    ended = ok(attempt.number, 3.0, tracking="TRK-1")
    assert await driver.repository.complete_step(order_id, step, ended, version)
    for _ in range(2):
        await driver.repository.complete_step(order_id, step, ended, version)
        await driver.repository.end_attempt(order_id, step, ended)
    assert await driver.attempts(order_id, step) == [(step.value, attempt.number, "ok")]


@pytest.mark.parametrize("step", UNDOING)
async def test_a_compensation_that_worked_is_recorded_once_however_often_it_is_said(driver, step):
    order_id = await driver.carry_to(State.PREPARED)
    await driver.abort(order_id)
    attempt = await driver.repository.start_next_attempt(order_id, step)
    ended = ok(attempt.number, 3.0, **UNDOING[step])
    assert await driver.repository.complete_step(order_id, step, ended)
    for _ in range(2):
        await driver.repository.complete_step(order_id, step, ended)
        await driver.repository.end_attempt(order_id, step, ended)
    assert await driver.attempts(order_id, step) == [(step.value, 1, "ok")]


@pytest.mark.parametrize("step", [step for step in DUE_STATE if step is not Step.RECEIVE])
async def test_a_step_moves_the_order_on_with_its_event_in_the_same_transaction(driver, step):
    order_id = await driver.carry_to_due(step)
    assert await driver.step(order_id, step)
    row, event = await driver.row(order_id), (await driver.events(order_id, "attempt"))[-1]
    assert event["state"] == STATE_AFTER[step]
    assert row["state"] == ("in_review" if step is Step.VALIDATE else STATE_AFTER[step])


async def test_an_order_passes_validated_on_its_way_into_review(driver):
    order_id = await driver.carry_to(State.IN_REVIEW)
    *_, validated, in_review = await driver.events(order_id)
    assert (validated["kind"], validated["state"]) == ("attempt", "validated")
    assert (in_review["kind"], in_review["state"]) == ("state", "in_review")
    assert validated["at"] < in_review["at"] == (await driver.row(order_id))["last_event_at"]


@pytest.mark.parametrize("step", DUE_STATE)
async def test_a_step_that_worked_after_the_order_was_turned_back_takes_no_effect(driver, step):
    order_id = await driver.carry_to_due(step)
    attempt = await driver.repository.start_next_attempt(order_id, step)
    await driver.abort(order_id)
    before = await driver.row(order_id)
    assert not await driver.repository.complete_step(order_id, step, ok(attempt.number), None)
    assert await driver.row(order_id) == before
    # Its attempt is still told, because the outside may have done its part.
    await driver.repository.end_attempt(order_id, step, ok(attempt.number))
    assert await driver.attempts(order_id, step) == [(step.value, 1, "ok")]


async def test_the_payments_and_shipments_of_our_books_follow_the_steps(driver):
    order_id = await driver.carry_to(State.APPROVED)
    assert (await driver.payment(order_id))["status"] == "pending"
    assert await driver.step(order_id, Step.CHARGE)
    payment = await driver.payment(order_id)
    assert (payment["status"], payment["refunded_at"]) == ("charged", None)
    assert payment["charged_at"] is not None
    assert await driver.step(order_id, Step.PREPARE)
    assert (await driver.shipment(order_id))["status"] == "packed"
    assert await driver.step(order_id, Step.DISPATCH, tracking="TRK-9")
    shipment = await driver.shipment(order_id)
    assert (shipment["status"], shipment["tracking"], shipment["label_version"]) == ("dispatched", "TRK-9", 1)


async def test_what_was_charged_is_refunded_and_what_was_packed_is_recalled(driver):
    order_id = await driver.carry_to(State.PREPARED)
    await driver.abort(order_id)
    await undo(driver, order_id)
    payment, shipment = await driver.payment(order_id), await driver.shipment(order_id)
    assert (payment["status"], payment["charged_at"] is None) == ("refunded", False)
    assert (shipment["status"], shipment["recalled_at"] is None) == ("recalled", False)


async def test_a_charge_whose_answer_never_came_is_known_from_its_refund(driver):
    order_id = await driver.carry_to(State.APPROVED)
    await driver.repository.start_next_attempt(order_id, Step.CHARGE)
    await driver.abort(order_id)
    assert await driver.step(order_id, Step.REFUND, refund_outcome="refunded")
    payment = await driver.payment(order_id)
    assert (payment["status"], payment["charged_at"]) == ("refunded", payment["refunded_at"])


async def test_a_charge_that_never_was_is_voided(driver):
    order_id = await driver.carry_to(State.APPROVED)
    await driver.repository.start_next_attempt(order_id, Step.CHARGE)
    await driver.abort(order_id)
    assert await driver.step(order_id, Step.REFUND, refund_outcome="voided")
    payment = await driver.payment(order_id)
    assert (payment["status"], payment["charged_at"]) == ("voided", None)


async def test_the_snapshot_has_the_attempted_steps_and_the_compensations_of_an_aborted_order(driver):
    order_id = await driver.carry_to(State.APPROVED)
    await driver.step(order_id, Step.CHARGE)
    await driver.repository.start_next_attempt(order_id, Step.PREPARE)
    snapshot = await driver.repository.snapshot(order_id)
    assert snapshot.attempted_steps == {Step.RECEIVE, Step.VALIDATE, Step.CHARGE, Step.PREPARE}
    assert snapshot.compensations == []
    assert (await driver.abort(order_id)).compensations == [Step.REFUND, Step.RECALL]


@pytest.mark.parametrize(("state", "compensations"), [(State.APPROVED, []), (State.CHARGED, [Step.REFUND])])
async def test_only_attempted_steps_are_compensated(driver, state, compensations):
    assert (await driver.abort(await driver.carry_to(state))).compensations == compensations


# --- Decisions --------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [*RESTING_STATES, *TERMINAL])
@pytest.mark.parametrize("reason", Reason)
async def test_an_order_is_turned_back_until_dispatch_and_by_its_review_only_until_approval(
    driver, state, reason
):
    order_id = await driver.carry_to(state)
    events = await driver.events(order_id)
    answer = await driver.abort(order_id, reason)
    is_review = reason in (Reason.REVIEW_REJECTED, Reason.REVIEW_EXPIRED)
    in_time = State.APPROVED.is_past(state) if is_review else State.DISPATCHED.is_past(state)
    assert answer.accepted == in_time
    assert answer.state == state
    row = await driver.row(order_id)
    if in_time:
        assert answer.abort_reason is reason
        assert (row["abort_reason"], row["aborted_by"], row["state"]) == (reason, "somebody", state)
        assert len(await driver.events(order_id)) == len(events) + 1
    else:
        assert answer.message.startswith("too late")
        assert row["abort_reason"] != reason or state.is_terminal


async def test_the_first_reason_that_reaches_the_books_stays(driver):
    order_id = await driver.carry_to(State.CHARGED)
    assert (await driver.abort(order_id, Reason.DEADLINE)).accepted
    answer = await driver.abort(order_id, Reason.CUSTOMER_CANCELLED)
    assert not answer.accepted
    assert answer.abort_reason is Reason.DEADLINE
    assert "was aborted (deadline)" in answer.message
    (told,) = await driver.events(order_id, "signal")
    assert (told["detail"]["signal"], told["detail"]["accepted"]) == ("cancel_order", False)


async def test_of_many_reasons_at_once_exactly_one_is_accepted(driver):
    order_id = await driver.carry_to(State.CHARGED)
    reasons = [Reason.DEADLINE, Reason.CUSTOMER_CANCELLED, Reason.TERMINATED, Reason.SHIPPING_FAILED] * 4
    answers = await asyncio.gather(*(driver.abort(order_id, reason) for reason in reasons))
    (winner,) = [answer for answer in answers if answer.accepted]
    assert {answer.abort_reason for answer in answers} == {winner.abort_reason}
    assert (await driver.row(order_id))["abort_reason"] == winner.abort_reason


async def test_a_repeated_request_gets_the_answer_of_the_first(driver):
    order_id = await driver.carry_to(State.CHARGED)
    first, second = [await driver.abort(order_id, request_id="same") for _ in range(2)]
    assert first.accepted
    assert second.accepted
    assert len(await driver.events(order_id, "signal")) == 1


async def test_a_request_without_an_id_is_not_taken_for_an_earlier_one_without(driver):
    order_id = await driver.carry_to(State.CHARGED)
    first = await driver.repository.abort(order_id, Reason.DEADLINE, "system")
    second = await driver.repository.abort(order_id, Reason.TERMINATED, "system")
    assert (first.accepted, second.accepted) == (True, False)
    assert second.abort_reason is Reason.DEADLINE


@pytest.mark.parametrize("state", [*RESTING_STATES, *TERMINAL])
async def test_an_order_is_approved_in_review_and_nowhere_else(driver, state):
    order_id = await driver.carry_to(state)
    answer = await driver.repository.approve(
        order_id, "eve", signal="approve_order", request_id="another approval"
    )
    assert answer.accepted == (state is State.IN_REVIEW)
    if answer.accepted:
        row = await driver.row(order_id)
        assert (row["state"], row["reviewer"], row["current_step"]) == ("approved", "eve", "charge")
        (event,) = await driver.events(order_id, "signal")
        assert (event["state"], event["detail"]["reviewer"]) == ("approved", "eve")


async def test_an_approval_is_not_given_once_the_order_is_turned_back(driver):
    order_id = await driver.carry_to(State.IN_REVIEW)
    await driver.abort(order_id, Reason.REVIEW_REJECTED)
    answer = await driver.repository.approve(order_id, "eve", signal=None, request_id="r1")
    assert (answer.accepted, answer.abort_reason) == (False, Reason.REVIEW_REJECTED)


async def test_a_repeated_approval_gets_the_answer_of_the_first_and_a_second_reviewer_is_too_late(driver):
    order_id = await driver.carry_to(State.IN_REVIEW)
    for _ in range(2):
        answer = await driver.repository.approve(order_id, "eve", signal="approve_order", request_id="r1")
        assert (answer.accepted, answer.state) == (True, State.APPROVED)
    assert not (
        await driver.repository.approve(order_id, "bob", signal="approve_order", request_id="r2")
    ).accepted
    assert [event["detail"]["accepted"] for event in await driver.events(order_id, "signal")] == [True, False]


async def test_of_an_approval_and_a_rejection_at_once_exactly_one_wins(driver):
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


@pytest.mark.parametrize("state", [*RESTING_STATES, *TERMINAL])
async def test_an_address_is_changed_until_dispatch(driver, state):
    order_id = await driver.carry_to(state)
    answer = await driver.change_address(order_id)
    row = await driver.row(order_id)
    assert answer.accepted == State.DISPATCHED.is_past(state)
    assert row["address_version"] == (2 if answer.accepted else 1)
    assert row["address"]["street"] == (OTHER_ADDRESS if answer.accepted else ADDRESS).street


async def test_an_address_is_not_changed_once_the_order_is_turned_back(driver):
    order_id = await driver.carry_to(State.CHARGED)
    await driver.abort(order_id)
    assert not (await driver.change_address(order_id)).accepted


async def test_a_repeated_address_change_counts_once_even_after_a_later_one(driver):
    order_id = await driver.carry_to(State.CHARGED)
    assert (await driver.change_address(order_id, OTHER_ADDRESS, "r1")).accepted
    assert (await driver.change_address(order_id, ADDRESS, "r2")).accepted
    assert (await driver.change_address(order_id, OTHER_ADDRESS, "r1")).accepted
    row = await driver.row(order_id)
    assert (row["address_version"], row["address"]["street"]) == (3, ADDRESS.street)
    assert len(await driver.events(order_id, "signal")) == 2


async def test_a_label_with_an_older_address_does_not_count_as_dispatched(driver):
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
async def test_of_a_dispatch_and_a_request_at_once_exactly_one_wins(driver, late_request):
    for _ in range(20):
        order_id = await driver.carry_to(State.PREPARED)
        await driver.repository.start_next_attempt(order_id, Step.DISPATCH)
        request = driver.abort(order_id) if late_request == "cancel" else driver.change_address(order_id)
        answer, dispatched = await asyncio.gather(
            request, driver.repository.complete_step(order_id, Step.DISPATCH, ok(1, tracking="T"), 1)
        )
        assert answer.accepted != dispatched


# --- The trigger: what no statement, not even a new one, can do ---------------------------------------


@pytest.mark.parametrize("state", [*RESTING_STATES, *TERMINAL])
async def test_the_trigger_rejects_every_state_change_that_the_transition_table_does_not_have(
    driver, pool, state
):
    order_id = await driver.carry_to(state)
    for other in State:
        if state.is_terminal or (other is not state and (state, other) not in STATE_MACHINE.row_changes()):
            with pytest.raises(psycopg.errors.CheckViolation, match="cannot change"):
                await pool.execute(
                    "update orders set state = %(other)s where order_id = %(id)s",
                    {"other": other, "id": order_id},
                )


async def test_the_legal_state_changes_in_sql_are_those_of_the_transition_table(pool):
    rows = await pool.fetch_all(
        "select a, b from unnest(enum_range(null::order_state)) a, unnest(enum_range(null::order_state)) b"
        " where is_legal_transition(a, b)"
    )
    assert {(row["a"], row["b"]) for row in rows} == set(STATE_MACHINE.row_changes())


@pytest.mark.parametrize("state", TERMINAL)
async def test_no_statement_writes_anything_after_the_outcome(driver, state):
    order_id = await driver.carry_to(state)
    row, events = await driver.row(order_id), await driver.events(order_id)
    for step in (*DUE_STATE, *UNDOING):
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
    for outcome in TERMINAL:
        assert (await driver.repository.finish(order_id, outcome)).state is state
    assert await driver.row(order_id) == row
    assert await driver.events(order_id) == events


# --- Time -------------------------------------------------------------------------------------------


async def test_the_events_of_an_order_are_strictly_ordered_in_time_and_its_last_is_the_outcome(driver):
    order_id = await driver.carry_to(State.COMPLETED)
    events = await driver.events(order_id)
    assert strictly_increasing(events)
    assert [event["kind"] for event in events].count("outcome") == 1
    assert events[-1]["kind"] == "outcome"
    assert events[-1]["at"] == (await driver.row(order_id))["last_event_at"]


async def test_the_events_stay_ordered_when_the_clock_steps_back(driver, pool):
    order_id = await driver.carry_to(State.CHARGED)
    await pool.execute(
        "update orders set last_event_at = last_event_at + interval '1 hour' where order_id = %(id)s",
        {"id": order_id},
    )
    await pool.execute(
        "update events set at = at + interval '1 hour' where order_id = %(id)s", {"id": order_id}
    )
    assert await driver.step(order_id, Step.PREPARE)
    assert (await driver.change_address(order_id)).accepted
    await driver.repository.start_next_attempt(order_id, Step.DISPATCH)
    await driver.abort(order_id)
    await driver.repository.record_request(order_id, "approve_order", accepted=False)
    await undo(driver, order_id)
    assert (await driver.repository.finish(order_id, State.CANCELLED)).state is State.CANCELLED
    events = await driver.events(order_id)
    assert strictly_increasing(events)
    assert events[-1]["kind"] == "outcome"


async def test_an_order_accepted_by_a_clock_ahead_of_ours_keeps_its_events_after_its_acceptance(driver):
    ahead = (datetime.now(UTC) + timedelta(seconds=30)).replace(microsecond=0)
    order_id = await driver.open(accepted_at=ahead)
    await driver.step(order_id, Step.RECEIVE)
    await driver.abort(order_id)
    await driver.repository.finish(order_id, State.CANCELLED)
    events, row = await driver.events(order_id), await driver.row(order_id)
    assert strictly_increasing(events)
    assert all(event["at"] >= ahead for event in events)
    assert row["completion_ms"] >= 0
    assert row["waiting_ms"] >= 0


# --- The outcome ------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", RESTING_STATES)
@pytest.mark.parametrize("outcome", TERMINAL)
async def test_only_a_dispatched_order_completes_and_only_an_order_turned_back_ends_otherwise(
    driver, state, outcome
):
    order_id = await driver.carry_to(state)
    snapshot = await driver.repository.finish(order_id, outcome)
    may_end = state is State.DISPATCHED and outcome is State.COMPLETED
    assert snapshot.state is (outcome if may_end else state)
    assert (snapshot.completion_ms is not None) == may_end


async def test_an_order_that_is_still_charged_gets_no_outcome_before_its_refund(driver):
    order_id = await driver.carry_to(State.CHARGED)
    await driver.abort(order_id)
    assert (await driver.repository.finish(order_id, State.CANCELLED)).state is State.CHARGED
    assert await driver.step(order_id, Step.REFUND, refund_outcome="refunded")
    assert (await driver.repository.finish(order_id, State.CANCELLED)).state is State.CANCELLED


async def test_an_order_that_is_still_packed_gets_no_outcome_before_its_recall(driver):
    order_id = await driver.carry_to(State.PREPARED)
    await driver.abort(order_id)
    assert await driver.step(order_id, Step.REFUND, refund_outcome="refunded")
    assert (await driver.repository.finish(order_id, State.CANCELLED)).state is State.PREPARED
    assert await driver.step(order_id, Step.RECALL)
    assert (await driver.repository.finish(order_id, State.CANCELLED)).state is State.CANCELLED


async def test_an_outcome_is_written_once_by_many_at_once(driver):
    order_id = await driver.carry_to(State.DISPATCHED)
    standings = await asyncio.gather(
        *(driver.repository.finish(order_id, State.COMPLETED) for _ in range(10))
    )
    assert {snapshot.state for snapshot in standings} == {State.COMPLETED}
    assert len({snapshot.completion_ms for snapshot in standings}) == 1
    assert len(await driver.events(order_id, "outcome")) == 1


async def test_attempts_still_open_at_the_outcome_are_closed_as_lost(driver, pool):
    order_id = await driver.carry_to(State.PREPARED)
    await OrderRepository(pool, "dead-worker").start_next_attempt(order_id, Step.DISPATCH)
    await driver.abort(order_id)
    await OrderRepository(pool, "dead-worker-2").start_next_attempt(order_id, Step.RECALL)
    await undo(driver, order_id)
    await driver.repository.finish(order_id, State.CANCELLED)
    assert sorted(attempt for attempt in await driver.attempts(order_id) if attempt[2] == "lost") == [
        ("dispatch", 1, "lost"),
        ("recall", 1, "lost"),
    ]
    assert await driver.open_attempts(order_id) == 0
    assert strictly_increasing(await driver.events(order_id))


@pytest.mark.parametrize("other", ["end_attempt", "start_next_attempt", "complete_step"])
async def test_an_outcome_that_waited_for_another_statement_counts_what_that_one_wrote(
    driver, pool, order_database_url, other
):
    order_id = await driver.carry_to(State.APPROVED)
    await driver.repository.start_next_attempt(order_id, Step.CHARGE)
    await driver.abort(order_id)
    assert await driver.step(order_id, Step.REFUND, refund_outcome="voided")
    await driver.repository.start_next_attempt(order_id, Step.RECALL)
    async with await psycopg.AsyncConnection.connect(order_database_url) as connection:
        # The other statement has been executed, and not yet committed, when the outcome is written.
        slow_books = OrderRepository(_OneConnection(connection), "slow-worker")
        if other == "end_attempt":
            await slow_books.end_attempt(order_id, Step.CHARGE, failed(1, AttemptOutcome.TIMEOUT, 0.2))
        elif other == "start_next_attempt":
            await slow_books.start_next_attempt(order_id, Step.REFUND)
        else:
            await slow_books.complete_step(order_id, Step.RECALL, ok(1, 0.1))
        finishing = asyncio.create_task(driver.repository.finish(order_id, State.CANCELLED))
        await _until_somebody_waits_for_a_lock(pool)
        await connection.commit()
    assert (await finishing).state is State.CANCELLED
    row = await driver.row(order_id)
    assert await driver.open_attempts(order_id) == 0
    assert row["attempts"] == len(await driver.attempts(order_id))
    assert strictly_increasing(await driver.events(order_id))
    assert row["completion_ms"] == sum(row[part] for part in PARTS) + row["waiting_ms"]


class _OneConnection:
    """The pool's interface on one connection inside an open transaction."""

    def __init__(self, connection) -> None:
        self._connection = connection

    async def fetch_one(self, statement, parameters=None):
        cursor = self._connection.cursor(row_factory=psycopg.rows.dict_row)
        return await (await cursor.execute(statement, parameters)).fetchone()

    async def execute(self, statement, parameters=None):
        return (await self._connection.execute(statement, parameters)).rowcount


async def _until_somebody_waits_for_a_lock(pool) -> None:
    query = "select 1 from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"
    async with asyncio.timeout(10):
        while await pool.fetch_one(query) is None:  # noqa: ASYNC110
            await asyncio.sleep(0.005)


# --- Where the time went ----------------------------------------------------------------------------


async def _times(driver: OrderDriver, order_id: str) -> dict[str, int]:
    row = await driver.row(order_id)
    return {name: row[name] for name in (*PARTS, "waiting_ms", "completion_ms")}


async def test_the_time_of_a_completed_order_is_exactly_the_sum_of_its_parts(driver):
    accepted_at = datetime.now(UTC)
    order_id = await driver.open(accepted_at=accepted_at)
    await driver.step(order_id, Step.RECEIVE, 0.7)
    await driver.step(order_id, Step.VALIDATE, 0.6)
    await driver.repository.approve(order_id, "eve", request_id="r")
    for step in (Step.CHARGE, Step.PREPARE, Step.DISPATCH):
        await driver.step(order_id, step, 0.4)
    await driver.repository.finish(order_id, State.COMPLETED)
    row = await driver.row(order_id)
    assert row["completion_ms"] == sum(row[part] for part in PARTS) + row["waiting_ms"]
    assert row["finished_at"] - row["accepted_at"] == timedelta(milliseconds=row["completion_ms"])
    assert row["end_to_end_ms"] == row["ingress_ms"] + row["completion_ms"]
    assert row["within_limit"]
    assert (row["attempts"], row["failed_attempts"], row["timed_out_attempts"]) == (5, 0, 0)


async def test_recall_and_refund_side_by_side_count_once(driver, pool):
    order_id = await _rewritten(
        driver,
        pool,
        aborted_ms=1000,
        attempts=[
            ("charge", "ok", 100, 250),
            ("refund", "error", 1000, 250),
            ("refund", "ok", 1300, 200),
            ("recall", "timeout", 1100, 250),
            ("recall", "ok", 1500, 300),
        ],
    )
    times = await _times(driver, order_id)
    # 1000 to 1350 (three attempts), 1350 to 1500 and on to 1800.
    assert times["compensate_ms"] == 800
    assert times["charge_ms"] == 250
    assert times["completion_ms"] == sum(times[part] for part in PARTS) + times["waiting_ms"]


async def test_a_forward_attempt_counts_until_the_order_was_turned_back(driver, pool):
    order_id = await _rewritten(
        driver,
        pool,
        aborted_ms=400,
        attempts=[("charge", "timeout", 200, 250), ("prepare", "ok", 450, 100), ("refund", "ok", 410, 90)],
    )
    times = await _times(driver, order_id)
    assert (times["charge_ms"], times["prepare_ms"], times["compensate_ms"]) == (200, 0, 90)


async def test_a_lost_attempt_counts_as_waiting(driver, pool):
    order_id = await _rewritten(
        driver, pool, aborted_ms=3000, attempts=[("charge", "lost", 100, 2000), ("refund", "ok", 3000, 100)]
    )
    times = await _times(driver, order_id)
    assert (times["charge_ms"], times["compensate_ms"]) == (0, 100)
    assert times["waiting_ms"] == times["completion_ms"] - 100 - times["review_ms"]
    assert (await driver.row(order_id))["failed_attempts"] == 1


async def test_two_attempts_of_one_step_at_the_same_time_count_once(driver, pool):
    # A worker that was thought dead may still have its call in the air.
    order_id = await _rewritten(
        driver,
        pool,
        aborted_ms=500,
        attempts=[("charge", "ok", 100, 200), ("charge", "error", 150, 200), ("refund", "ok", 500, 10)],
    )
    times = await _times(driver, order_id)
    assert times["charge_ms"] == 250


@pytest.mark.parametrize("seed", range(12))
async def test_for_any_sequence_of_attempts_the_parts_and_the_waiting_sum_to_the_whole(driver, pool, seed):
    dice = random.Random(seed)
    aborted_ms = dice.uniform(500, 8000)
    attempts, at = [], 10.0
    for step in ("receive", "validate", "charge", "prepare", "dispatch"):
        for _ in range(dice.randint(1, 5)):
            took = dice.uniform(0, 260)
            if at < aborted_ms:
                attempts.append((step, dice.choice(["ok", "error", "timeout", "lost"]), at, took))
            at += took + dice.uniform(0, 30)
    for step in ("refund", "recall"):
        at = aborted_ms + dice.uniform(1, 20)
        for _ in range(dice.randint(1, 6)):
            took = dice.uniform(0, 260)
            attempts.append((step, dice.choice(["ok", "error", "timeout", "lost"]), at, took))
            at += took + dice.uniform(0, 30)
    order_id = await _rewritten(driver, pool, aborted_ms=aborted_ms, attempts=attempts)
    row = await driver.row(order_id)
    assert row["completion_ms"] == sum(row[part] for part in PARTS) + row["waiting_ms"]
    assert min(row[part] for part in (*PARTS, "waiting_ms")) >= 0
    assert row["attempts"] == len(attempts)
    assert row["failed_attempts"] == sum(outcome != "ok" for _, outcome, _, _ in attempts)
    assert row["timed_out_attempts"] == sum(outcome == "timeout" for _, outcome, _, _ in attempts)
    for step in ("receive", "validate", "charge", "prepare", "dispatch"):
        expected = sum(
            min(took, max(aborted_ms - at, 0))
            for name, outcome, at, took in attempts
            if name == step and outcome != "lost"
        )
        assert abs(row[f"{step}_ms"] - expected) <= 1, step


async def _rewritten(
    driver: OrderDriver, pool, *, aborted_ms: float, attempts: list[tuple[str, str, float, float]]
) -> str:
    """A cancelled order whose events are rewritten, before the outcome, to what `attempts` say:
    (step, outcome, begun, lasted), in milliseconds since acceptance, which was ten seconds ago."""
    accepted_at = (datetime.now(UTC) - timedelta(seconds=10)).replace(microsecond=0)
    order_id = await driver.open(accepted_at=accepted_at)
    await driver.abort(order_id)
    await pool.execute(
        "update orders set aborted_at = %(at)s where order_id = %(id)s",
        {"at": accepted_at + timedelta(milliseconds=aborted_ms), "id": order_id},
    )
    numbers: Counter[str] = Counter()
    for index, (step, outcome, begun, lasted) in enumerate(attempts):
        numbers[step] += 1
        started_at = accepted_at + timedelta(milliseconds=begun)
        await pool.execute(
            "insert into events (order_id, at, kind, state, step, attempt, outcome, started_at, duration_ms)"
            " values (%(id)s, %(at)s, 'attempt', 'received',"
            " %(step)s, %(number)s, %(outcome)s, %(started)s, %(ms)s)",
            {
                "id": order_id,
                "at": started_at + timedelta(milliseconds=lasted, microseconds=index),
                "step": step,
                "number": numbers[step],
                "outcome": outcome,
                "started": started_at,
                "ms": lasted,
            },
        )
    assert (await driver.repository.finish(order_id, State.CANCELLED)).state is State.CANCELLED
    return order_id


async def test_the_review_lasts_from_its_beginning_to_the_approval_or_the_turning_back(driver):
    for decide in (
        lambda order_id: driver.repository.approve(order_id, "eve", request_id="r"),
        lambda order_id: driver.abort(order_id, Reason.REVIEW_REJECTED),
    ):
        order_id = await driver.carry_to(State.IN_REVIEW)
        began = (await driver.row(order_id))["last_event_at"]
        await decide(order_id)
        decided = (await driver.row(order_id))["last_event_at"]
        await driver.abort(order_id)
        await driver.repository.finish(order_id, State.CANCELLED)
        lasted_ms = (decided - began).total_seconds() * 1000
        assert abs((await driver.row(order_id))["review_ms"] - lasted_ms) <= 1


@pytest.mark.parametrize(
    "due_ago", [timedelta(0), timedelta(days=1), timedelta(days=60), timedelta(days=9_000)], ids=str
)
async def test_an_order_that_was_due_long_ago_still_gets_its_outcome(driver, due_ago):
    order = new_order(requested_at=datetime.now(UTC) - due_ago)
    order_id = await driver.carry_to(State.COMPLETED, order)
    row = await driver.row(order_id)
    assert row["state"] == "completed"
    assert row["end_to_end_ms"] == row["ingress_ms"] + row["completion_ms"]


async def test_an_order_finished_after_its_deadline_is_late(driver):
    order_id = await driver.open(accepted_at=datetime.now(UTC) - timedelta(seconds=20))
    await driver.abort(order_id, Reason.DEADLINE)
    await driver.repository.finish(order_id, State.FAILED)
    row = await driver.row(order_id)
    assert not row["within_limit"]
    assert row["completion_ms"] >= 20_000


# --- Everything at once -----------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
async def test_hammered_from_all_sides_one_order_keeps_every_rule(driver, pool, seed):
    dice = random.Random(seed)
    order_id = await driver.carry_to(dice.choice(RESTING_STATES[:-1]))
    approvals_before = 1 if (await driver.row(order_id))["reviewer"] else 0
    pens = [OrderRepository(pool, f"worker-{number}") for number in range(4)]

    async def work(step: Step) -> None:
        pen = dice.choice(pens)
        try:
            attempt = await pen.start_next_attempt(order_id, step)
            if attempt is None:
                return
            if dice.random() < 0.3:
                attempt = await pen.start_next_attempt(order_id, step, failed(attempt.number))
                if attempt is None:
                    return
            version = attempt.address_version if step is Step.DISPATCH else None
            await pen.complete_step(
                order_id, step, ok(attempt.number, 0.1, tracking="T", refund_outcome="refunded"), version
            )
        except StaleAttempt:
            return

    approvals = [
        driver.repository.approve(
            order_id, f"r{number}", signal="approve_order", request_id=f"approve-{number}"
        )
        for number in range(4)
    ]
    aborts = [driver.abort(order_id, dice.choice([*Reason])) for _ in range(2)]
    addresses = [driver.change_address(order_id) for _ in range(4)]
    steps = [work(step) for step in (*DUE_STATE, *UNDOING) for _ in range(5)]
    finishes = [driver.repository.finish(order_id, outcome) for outcome in TERMINAL]
    everything = [*approvals, *aborts, *addresses, *steps, *finishes]
    positions = list(range(len(everything)))
    dice.shuffle(positions)
    answers = dict(
        zip(positions, await asyncio.gather(*(everything[position] for position in positions)), strict=True)
    )
    accepted_aborts = sum(answers[position].accepted for position in range(4, 6))
    accepted_approvals = sum(answers[position].accepted for position in range(4))
    accepted_addresses = sum(answers[position].accepted for position in range(6, 10))

    row, events = await driver.row(order_id), await driver.events(order_id)
    assert strictly_increasing(events)
    assert accepted_aborts == (row["abort_reason"] is not None)
    assert accepted_approvals + approvals_before <= 1
    assert row["address_version"] == 1 + accepted_addresses
    states = [State(event["state"]) for event in events]
    assert all(not earlier.is_past(later) for earlier, later in itertools.pairwise(states))
    closed = Counter(
        (event["step"], event["attempt"]) for event in events if event["outcome"] in ("ok", "error")
    )
    assert set(closed.values()) <= {1}
    shipment = await driver.shipment(order_id)
    if shipment and shipment["status"] == "dispatched":
        assert shipment["label_version"] == row["address_version"]
        assert row["abort_reason"] is None
    if row["state"] in TERMINAL:
        assert events[-1]["kind"] == "outcome"
        assert [event["kind"] for event in events].count("outcome") == 1
        assert await driver.open_attempts(order_id) == 0
        assert row["attempts"] == sum(event["kind"] == "attempt" for event in events)
        assert row["completion_ms"] == sum(row[part] for part in PARTS) + row["waiting_ms"]
        assert row["waiting_ms"] >= 0
