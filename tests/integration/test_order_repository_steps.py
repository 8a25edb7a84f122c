"""OrderRepository on PostgreSQL: inserting orders, starting attempts and completing steps."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial

import psycopg
import pytest

from db.domain import SAMPLE_ITEMS, TERMINAL_STATES, AttemptOutcome, Item, ReviewMode, State, Step
from db.orders import OrderRepository, StaleAttempt
from db.transitions import STATE_MACHINE
from tests.orders import (
    ADDRESS,
    COMPENSATION_DETAILS,
    DUE_STATE,
    OTHER_ADDRESS,
    RESTING_STATES,
    TEMPORAL,
    failed,
    new_order,
    ok,
)

# --- Inserting ----------------------------------------------------------------------------------------


async def test_a_repeated_insert_of_the_same_run_inserts_one_order(driver):
    order = new_order(run_id="run-7", items=[Item("A", 2, 150), Item("B", 1, 1)])
    now = datetime.now(UTC)
    for _ in range(3):
        assert await driver.repository.insert_order(order.new_order("workflow-run", now))
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


async def test_an_order_of_another_workflow_run_is_rejected(driver):
    order = new_order()
    await driver.open(order)
    now = datetime.now(UTC)
    assert not await driver.repository.insert_order(order.new_order("another-run", now))
    assert len(await driver.events(order.order_id)) == 1


async def test_ten_concurrent_inserts_insert_one_order(driver):
    order, now = new_order(), datetime.now(UTC)
    taken = await asyncio.gather(
        *(driver.repository.insert_order(order.new_order(f"run-{n}", now)) for n in range(10))
    )
    assert sorted(taken) == [False] * 9 + [True]
    assert len(await driver.events(order.order_id)) == 1


async def test_a_payment_id_belongs_to_the_first_order_with_it(driver):
    first = new_order()
    second = new_order(payment_id=first.payment_id)
    for order in (first, second):
        await driver.open(order)
        await driver.step(order.order_id, Step.RECEIVE)
    assert (await driver.repository.start_next_attempt(first.order_id, Step.VALIDATE)).owns_payment
    assert not (await driver.repository.start_next_attempt(second.order_id, Step.VALIDATE)).owns_payment


async def test_times_are_stored_in_milliseconds_and_requested_at_is_at_most_accepted_at(driver):
    accepted_at = datetime.now(UTC).replace(microsecond=123_000)
    order = new_order(requested_at=accepted_at + timedelta(seconds=5))
    await driver.open(order, accepted_at=accepted_at)
    row = await driver.row(order.order_id)
    assert row["accepted_at"] == row["requested_at"] == accepted_at
    assert row["deadline_at"] == accepted_at + timedelta(seconds=15)


async def test_an_unknown_order_has_no_snapshot(driver):
    assert await driver.repository.snapshot("unknown") is None
    with pytest.raises(LookupError):
        await driver.repository.finish("unknown", State.COMPLETED)
    with pytest.raises(LookupError):
        await driver.abort("unknown")
    assert await driver.repository.start_next_attempt("unknown", Step.RECEIVE) is None


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
def test_the_fingerprint_depends_on_the_content_of_the_order(change):
    order = new_order()
    assert replace(order, **change).fingerprint != order.fingerprint


def test_the_fingerprint_does_not_depend_on_send_time_and_run():
    order = new_order()
    later = replace(
        order, requested_at=order.requested_at + timedelta(days=1), run_id="r", items=list(SAMPLE_ITEMS)
    )
    assert later.fingerprint == order.fingerprint


# --- Attempts -----------------------------------------------------------------------------------------


async def test_a_started_attempt_has_the_data_of_the_gateway_call(driver):
    order = new_order(items=[Item("A", 2, 150)])
    await driver.open(order)
    attempt = await driver.repository.start_next_attempt(order.order_id, Step.RECEIVE)
    assert (attempt.number, attempt.order_id, attempt.payment_id) == (1, order.order_id, order.payment_id)
    assert (attempt.amount_cents, attempt.items) == (300, [Item("A", 2, 150)])
    assert (attempt.address, attempt.address_version) == (ADDRESS, 1)
    assert (await driver.row(order.order_id))["current_step"] == "receive"


async def test_the_next_attempt_closes_the_previous_one_and_increments_the_number(driver):
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


async def test_the_attempt_of_a_dead_worker_is_closed_as_lost_with_that_workers_name(driver, pool):
    order_id = await driver.open()
    await OrderRepository(pool, "dead-worker", TEMPORAL).start_next_attempt(order_id, Step.RECEIVE)
    assert (await driver.repository.start_next_attempt(order_id, Step.RECEIVE)).number == 2
    assert await driver.attempts(order_id) == [("receive", 1, "lost")]
    (event,) = await driver.events(order_id, "attempt")
    assert event["worker"] == "dead-worker"
    assert event["duration_ms"] == pytest.approx(
        (event["at"] - event["started_at"]).total_seconds() * 1000, abs=0.01
    )


async def test_a_worker_with_a_stale_attempt_cannot_start_the_next_one(driver):
    order_id = await driver.open()
    await driver.repository.start_next_attempt(order_id, Step.RECEIVE)
    await driver.repository.start_next_attempt(order_id, Step.RECEIVE)
    with pytest.raises(StaleAttempt):
        await driver.repository.start_next_attempt(order_id, Step.RECEIVE, failed(1))
    assert (await driver.repository.start_next_attempt(order_id, Step.RECEIVE, failed(2))).number == 3
    assert await driver.attempts(order_id) == [("receive", 1, "lost"), ("receive", 2, "error")]


async def test_an_attempt_is_closed_once(driver):
    order_id = await driver.open()
    await driver.repository.start_next_attempt(order_id, Step.RECEIVE)
    for _ in range(2):
        await driver.repository.end_attempt(order_id, Step.RECEIVE, failed(1))
    assert (await driver.repository.start_next_attempt(order_id, Step.RECEIVE)).number == 2
    assert await driver.attempts(order_id) == [("receive", 1, "error")]


@pytest.mark.parametrize("state", [*RESTING_STATES, *TERMINAL_STATES])
async def test_a_forward_step_starts_only_when_it_is_due(driver, state):
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


async def due_for_attempt(driver, step: Step) -> str:
    """Return an order for which a step, or a compensation, is due."""
    if step not in COMPENSATION_DETAILS:
        return await driver.carry_to_due(step)
    order_id = await driver.carry_to(State.PREPARED)
    await driver.abort(order_id)
    return order_id


@pytest.mark.parametrize("step", [*DUE_STATE, *COMPENSATION_DETAILS])
async def test_a_step_is_completed_by_its_latest_attempt_only(driver, step):
    order_id = await due_for_attempt(driver, step)
    for _ in range(2):
        await driver.repository.start_next_attempt(order_id, step)
    before = await driver.row(order_id), await driver.payment(order_id), await driver.shipment(order_id)
    ended = ok(1, **COMPENSATION_DETAILS.get(step, {}))
    for _ in range(2):
        assert not await driver.repository.complete_step(order_id, step, ended)
        await driver.repository.end_attempt(order_id, step, ended)
    after = await driver.row(order_id), await driver.payment(order_id), await driver.shipment(order_id)
    assert [row and row | {"last_event_at": None} for row in after] == [
        row and row | {"last_event_at": None} for row in before
    ]
    with pytest.raises(StaleAttempt):
        await driver.repository.start_next_attempt(order_id, step, ended)
    latest = replace(ended, number=2)
    for _ in range(2):
        await driver.repository.complete_step(order_id, step, latest)
    assert await driver.attempts(order_id, step) == [(step.value, 1, "lost"), (step.value, 2, "ok")]


@pytest.mark.parametrize("starts_first", [True, False])
@pytest.mark.parametrize("step", [*DUE_STATE, *COMPENSATION_DETAILS])
async def test_of_two_workers_that_race_one_completes_a_step(
    driver, pool, order_database_url, step, starts_first
):
    order_id = await due_for_attempt(driver, step)
    await driver.repository.start_next_attempt(order_id, step)
    other = OrderRepository(pool, "worker-2", TEMPORAL)
    start = partial(other.start_next_attempt, order_id, step)
    complete = partial(
        driver.repository.complete_step, order_id, step, ok(1, **COMPENSATION_DETAILS.get(step, {}))
    )
    async with await psycopg.AsyncConnection.connect(order_database_url) as holder:
        await holder.execute("select from orders where order_id = %s for update", (order_id,))
        waiting = []
        for call in (start, complete) if starts_first else (complete, start):
            waiting.append(asyncio.create_task(call()))
            await wait_for_lock_waiters(pool, len(waiting))
    # The second statement has an older snapshot than the first one's changes.
    first, second = await asyncio.gather(*waiting)
    started, completed = (first, second) if starts_first else (second, first)
    if starts_first:
        assert (started.number, completed) == (2, False)
        assert await driver.attempts(order_id, step) == [(step.value, 1, "lost")]
    else:
        # A compensation may run again: it is idempotent.
        assert completed
        assert (started is not None) == (step in COMPENSATION_DETAILS)
        assert await driver.attempts(order_id, step) == [(step.value, 1, "ok")]


async def wait_for_lock_waiters(pool, count: int) -> None:
    async with asyncio.timeout(60):
        while True:
            row = await pool.fetch_one(
                "select count(*) as n from pg_stat_activity"
                " where datname = current_database() and wait_event_type = 'Lock'"
            )
            if row["n"] >= count:
                return
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("state", RESTING_STATES[:-1])
async def test_after_an_abort_only_compensations_start(driver, state):
    order_id = await driver.carry_to(state)
    for step in COMPENSATION_DETAILS:
        assert await driver.repository.start_next_attempt(order_id, step) is None
    assert (await driver.abort(order_id)).accepted
    for step in DUE_STATE:
        assert await driver.repository.start_next_attempt(order_id, step) is None
    for step in COMPENSATION_DETAILS:
        assert (await driver.repository.start_next_attempt(order_id, step)).number == 1


@pytest.mark.parametrize("state", [State.DISPATCHED, *TERMINAL_STATES])
async def test_no_compensation_starts_after_dispatch_or_the_outcome(driver, state):
    order_id = await driver.carry_to(state)
    for step in COMPENSATION_DETAILS:
        assert await driver.repository.start_next_attempt(order_id, step) is None
        assert not await driver.repository.complete_step(order_id, step, ok(1))


# --- Completed steps ----------------------------------------------------------------------------------


@pytest.mark.parametrize("step", DUE_STATE)
async def test_a_repeated_completion_records_a_step_once(driver, step):
    order_id = await driver.carry_to_due(step)
    attempt = await driver.repository.start_next_attempt(order_id, step)
    version = 1 if step is Step.DISPATCH else None
    ended = ok(attempt.number, 3.0, tracking="TRK-1")
    assert await driver.repository.complete_step(order_id, step, ended, version)
    for _ in range(2):
        await driver.repository.complete_step(order_id, step, ended, version)
        await driver.repository.end_attempt(order_id, step, ended)
    assert await driver.attempts(order_id, step) == [(step.value, attempt.number, "ok")]


@pytest.mark.parametrize("step", COMPENSATION_DETAILS)
async def test_a_repeated_completion_records_a_compensation_once(driver, step):
    order_id = await driver.carry_to(State.PREPARED)
    await driver.abort(order_id)
    attempt = await driver.repository.start_next_attempt(order_id, step)
    ended = ok(attempt.number, 3.0, **COMPENSATION_DETAILS[step])
    assert await driver.repository.complete_step(order_id, step, ended)
    for _ in range(2):
        await driver.repository.complete_step(order_id, step, ended)
        await driver.repository.end_attempt(order_id, step, ended)
    assert await driver.attempts(order_id, step) == [(step.value, 1, "ok")]


@pytest.mark.parametrize("step", [step for step in DUE_STATE if step is not Step.RECEIVE])
async def test_a_completed_step_changes_the_state_and_writes_its_event(driver, step):
    order_id = await driver.carry_to_due(step)
    assert await driver.step(order_id, step)
    row, event = await driver.row(order_id), (await driver.events(order_id, "attempt"))[-1]
    transition = STATE_MACHINE.of(step)
    assert event["state"] == (transition.passed_state or transition.state_after)
    assert row["state"] == transition.state_after


async def test_an_order_passes_validated_before_in_review(driver):
    order_id = await driver.carry_to(State.IN_REVIEW)
    *_, validated, in_review = await driver.events(order_id)
    assert (validated["kind"], validated["state"]) == ("attempt", "validated")
    assert (in_review["kind"], in_review["state"]) == ("state", "in_review")
    assert validated["at"] < in_review["at"] == (await driver.row(order_id))["last_event_at"]


@pytest.mark.parametrize("step", DUE_STATE)
async def test_a_step_that_succeeds_after_the_abort_takes_no_effect(driver, step):
    order_id = await driver.carry_to_due(step)
    attempt = await driver.repository.start_next_attempt(order_id, step)
    await driver.abort(order_id)
    before = await driver.row(order_id)
    assert not await driver.repository.complete_step(order_id, step, ok(attempt.number), None)
    assert await driver.row(order_id) == before
    # The attempt is still recorded: the gateway call took effect.
    await driver.repository.end_attempt(order_id, step, ok(attempt.number))
    assert await driver.attempts(order_id, step) == [(step.value, 1, "ok")]


async def test_payment_and_shipment_follow_the_steps(driver):
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


async def test_compensations_mark_payment_and_shipment(driver):
    order_id = await driver.carry_to(State.PREPARED)
    await driver.abort(order_id)
    await driver.compensate(order_id)
    payment, shipment = await driver.payment(order_id), await driver.shipment(order_id)
    assert (payment["status"], payment["charged_at"] is None) == ("refunded", False)
    assert (shipment["status"], shipment["recalled_at"] is None) == ("recalled", False)


async def test_a_charge_whose_response_was_lost_is_stored_with_its_refund(driver):
    order_id = await driver.carry_to(State.APPROVED)
    await driver.repository.start_next_attempt(order_id, Step.CHARGE)
    await driver.abort(order_id)
    assert await driver.step(order_id, Step.REFUND, refund_outcome="refunded")
    payment = await driver.payment(order_id)
    assert (payment["status"], payment["charged_at"]) == ("refunded", payment["refunded_at"])


async def test_a_payment_without_a_charge_is_voided(driver):
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
