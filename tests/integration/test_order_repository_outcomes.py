"""OrderRepository on PostgreSQL: event times, the outcome, and how an order's time was spent."""

import asyncio
import itertools
import random
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from db.domain import TERMINAL_STATES, AttemptOutcome, Reason, State, Step
from db.orders import OrderRepository, StaleAttempt
from db.read_models import latency_report, order_metrics
from db.read_models.latency import LatencyFilter
from db.read_models.latency_buckets import EDGES_MS
from tests.orders import (
    COMPENSATION_DETAILS,
    DUE_STATE,
    OTHER_ADDRESS,
    RESTING_STATES,
    TEMPORAL,
    OrderDriver,
    failed,
    new_order,
    ok,
    times_increase,
)

PARTS = ("receive_ms", "validate_ms", "review_ms", "charge_ms", "prepare_ms", "dispatch_ms", "compensate_ms")


# --- Event times --------------------------------------------------------------------------------------


async def test_event_times_strictly_increase_and_the_outcome_is_last(driver):
    order_id = await driver.carry_to(State.COMPLETED)
    events = await driver.events(order_id)
    assert times_increase(events)
    assert [event["kind"] for event in events].count("outcome") == 1
    assert events[-1]["kind"] == "outcome"
    assert events[-1]["at"] == (await driver.row(order_id))["last_event_at"]


async def test_event_times_increase_when_the_clock_steps_back(driver, pool):
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
    await driver.compensate(order_id)
    assert (await driver.repository.finish(order_id, State.CANCELLED)).state is State.CANCELLED
    events = await driver.events(order_id)
    assert times_increase(events)
    assert events[-1]["kind"] == "outcome"


async def test_events_are_after_the_acceptance_when_temporals_clock_is_ahead(driver):
    ahead = (datetime.now(UTC) + timedelta(seconds=30)).replace(microsecond=0)
    order_id = await driver.open(accepted_at=ahead)
    await driver.step(order_id, Step.RECEIVE)
    await driver.abort(order_id)
    await driver.repository.finish(order_id, State.CANCELLED)
    events, row = await driver.events(order_id), await driver.row(order_id)
    assert times_increase(events)
    assert all(event["at"] >= ahead for event in events)
    assert row["completion_ms"] >= 0
    assert row["waiting_ms"] >= 0


# --- The outcome --------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", RESTING_STATES)
@pytest.mark.parametrize("outcome", TERMINAL_STATES)
async def test_only_dispatched_orders_complete_and_only_aborted_ones_end_otherwise(driver, state, outcome):
    order_id = await driver.carry_to(state)
    snapshot = await driver.repository.finish(order_id, outcome)
    may_end = state is State.DISPATCHED and outcome is State.COMPLETED
    assert snapshot.state is (outcome if may_end else state)
    assert (snapshot.completion_ms is not None) == may_end


async def test_a_charged_order_gets_no_outcome_before_its_refund(driver):
    order_id = await driver.carry_to(State.CHARGED)
    await driver.abort(order_id)
    assert (await driver.repository.finish(order_id, State.CANCELLED)).state is State.CHARGED
    assert await driver.step(order_id, Step.REFUND, refund_outcome="refunded")
    assert (await driver.repository.finish(order_id, State.CANCELLED)).state is State.CANCELLED


async def test_a_packed_order_gets_no_outcome_before_its_recall(driver):
    order_id = await driver.carry_to(State.PREPARED)
    await driver.abort(order_id)
    assert await driver.step(order_id, Step.REFUND, refund_outcome="refunded")
    assert (await driver.repository.finish(order_id, State.CANCELLED)).state is State.PREPARED
    assert await driver.step(order_id, Step.RECALL)
    assert (await driver.repository.finish(order_id, State.CANCELLED)).state is State.CANCELLED


async def test_concurrent_finishes_write_one_outcome(driver):
    order_id = await driver.carry_to(State.DISPATCHED)
    snapshots = await asyncio.gather(
        *(driver.repository.finish(order_id, State.COMPLETED) for _ in range(10))
    )
    assert {snapshot.state for snapshot in snapshots} == {State.COMPLETED}
    assert len({snapshot.completion_ms for snapshot in snapshots}) == 1
    assert len(await driver.events(order_id, "outcome")) == 1


async def test_the_outcome_closes_open_attempts_as_lost(driver, pool):
    order_id = await driver.carry_to(State.PREPARED)
    await OrderRepository(pool, "dead-worker", TEMPORAL).start_next_attempt(order_id, Step.DISPATCH)
    await driver.abort(order_id)
    await OrderRepository(pool, "dead-worker-2", TEMPORAL).start_next_attempt(order_id, Step.RECALL)
    await driver.compensate(order_id)
    await driver.repository.finish(order_id, State.CANCELLED)
    assert sorted(attempt for attempt in await driver.attempts(order_id) if attempt[2] == "lost") == [
        ("dispatch", 1, "lost"),
        ("recall", 1, "lost"),
    ]
    assert await driver.open_attempts(order_id) == 0
    assert times_increase(await driver.events(order_id))


@pytest.mark.parametrize("other", ["end_attempt", "start_next_attempt", "complete_step"])
async def test_an_outcome_that_waited_for_a_lock_counts_the_events_of_the_other_statement(
    driver, pool, order_database_url, other
):
    order_id = await driver.carry_to(State.APPROVED)
    await driver.repository.start_next_attempt(order_id, Step.CHARGE)
    await driver.abort(order_id)
    assert await driver.step(order_id, Step.REFUND, refund_outcome="voided")
    await driver.repository.start_next_attempt(order_id, Step.RECALL)
    async with await psycopg.AsyncConnection.connect(order_database_url) as connection:
        # The other statement is executed but not committed when the outcome is written.
        slow_books = OrderRepository(_OneConnection(connection), "slow-worker", TEMPORAL)
        if other == "end_attempt":
            await slow_books.end_attempt(order_id, Step.CHARGE, failed(1, AttemptOutcome.TIMEOUT, 0.2))
        elif other == "start_next_attempt":
            await slow_books.start_next_attempt(order_id, Step.REFUND)
        else:
            await slow_books.complete_step(order_id, Step.RECALL, ok(1, 0.1))
        finishing = asyncio.create_task(driver.repository.finish(order_id, State.CANCELLED))
        await _wait_for_a_blocked_session(pool)
        await connection.commit()
    assert (await finishing).state is State.CANCELLED
    row = await driver.row(order_id)
    assert await driver.open_attempts(order_id) == 0
    assert row["attempts"] == len(await driver.attempts(order_id))
    assert times_increase(await driver.events(order_id))
    assert row["completion_ms"] == sum(row[part] for part in PARTS) + row["waiting_ms"]


class _OneConnection:
    """The interface of Database on one connection in an open transaction."""

    def __init__(self, connection) -> None:
        self._connection = connection

    async def fetch_one(self, statement, parameters=None):
        cursor = self._connection.cursor(row_factory=psycopg.rows.dict_row)
        return await (await cursor.execute(statement, parameters)).fetchone()

    async def execute(self, statement, parameters=None):
        return (await self._connection.execute(statement, parameters)).rowcount


async def _wait_for_a_blocked_session(pool) -> None:
    query = "select 1 from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"
    async with asyncio.timeout(60):
        while await pool.fetch_one(query) is None:  # noqa: ASYNC110
            await asyncio.sleep(0.005)


# --- Time parts ---------------------------------------------------------------------------------------


async def _times(driver: OrderDriver, order_id: str) -> dict[str, int]:
    row = await driver.row(order_id)
    return {name: row[name] for name in (*PARTS, "waiting_ms", "completion_ms")}


async def test_completion_ms_is_exactly_the_sum_of_its_parts(driver):
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


async def test_overlapping_recall_and_refund_count_once(driver, pool):
    order_id = await _order_with_attempts(
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


async def test_a_forward_attempt_counts_until_the_abort(driver, pool):
    order_id = await _order_with_attempts(
        driver,
        pool,
        aborted_ms=400,
        attempts=[("charge", "timeout", 200, 250), ("prepare", "ok", 450, 100), ("refund", "ok", 410, 90)],
    )
    times = await _times(driver, order_id)
    assert (times["charge_ms"], times["prepare_ms"], times["compensate_ms"]) == (200, 0, 90)


async def test_a_lost_attempt_counts_as_waiting(driver, pool):
    order_id = await _order_with_attempts(
        driver, pool, aborted_ms=3000, attempts=[("charge", "lost", 100, 2000), ("refund", "ok", 3000, 100)]
    )
    times = await _times(driver, order_id)
    assert (times["charge_ms"], times["compensate_ms"]) == (0, 100)
    assert times["waiting_ms"] == times["completion_ms"] - 100 - times["review_ms"]
    assert (await driver.row(order_id))["failed_attempts"] == 1


async def test_overlapping_attempts_of_one_step_count_once(driver, pool):
    # A worker that is considered dead may still have a call in flight.
    order_id = await _order_with_attempts(
        driver,
        pool,
        aborted_ms=500,
        attempts=[("charge", "ok", 100, 200), ("charge", "error", 150, 200), ("refund", "ok", 500, 10)],
    )
    times = await _times(driver, order_id)
    assert times["charge_ms"] == 250


@pytest.mark.parametrize("state", RESTING_STATES)
async def test_the_outcome_stores_when_each_step_before_dispatch_ended(driver, state):
    order_id = await driver.carry_to(state)
    if state is State.DISPATCHED:
        await driver.repository.finish(order_id, State.COMPLETED)
    else:
        await driver.abort(order_id)
        await driver.compensate(order_id)
        await driver.repository.finish(order_id, State.CANCELLED)
    accepted_at = (await driver.row(order_id))["accepted_at"]
    ended = {
        event["step"]: event["at"]
        for kind in ("attempt", "state")
        for event in await driver.events(order_id, kind)
        if event["outcome"] == "ok" or event["state"] == State.APPROVED
    }
    expected = [
        round((ended[step] - accepted_at) / timedelta(milliseconds=1)) if step in ended else None
        for step in ("receive", "validate", "review", "charge", "prepare")
    ]
    assert (await driver.row(order_id))["step_ends_ms"] == expected


@pytest.mark.parametrize("seed", range(12))
async def test_for_any_attempts_the_parts_and_waiting_ms_sum_to_completion_ms(driver, pool, seed):
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
    order_id = await _order_with_attempts(driver, pool, aborted_ms=aborted_ms, attempts=attempts)
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


async def _order_with_attempts(
    driver: OrderDriver, pool, *, aborted_ms: float, attempts: list[tuple[str, str, float, float]]
) -> str:
    """Return a cancelled order that was accepted ten seconds ago and has these attempts: (step, outcome,
    start and duration in milliseconds after acceptance)."""
    accepted_at = (datetime.now(UTC) - timedelta(seconds=10)).replace(microsecond=0)
    order_id = await driver.open(accepted_at=accepted_at)
    await driver.abort(order_id)
    await pool.execute(
        "update orders set aborted_at = %(at)s where order_id = %(id)s",
        {"at": accepted_at + timedelta(milliseconds=aborted_ms), "id": order_id},
    )
    numbers: Counter[str] = Counter()
    for index, (step, outcome, started_ms, duration_ms) in enumerate(attempts):
        numbers[step] += 1
        started_at = accepted_at + timedelta(milliseconds=started_ms)
        await pool.execute(
            "insert into events (order_id, at, kind, state, step, attempt, outcome, started_at, duration_ms)"
            " values (%(id)s, %(at)s, 'attempt', 'received',"
            " %(step)s, %(number)s, %(outcome)s, %(started)s, %(ms)s)",
            {
                "id": order_id,
                "at": started_at + timedelta(milliseconds=duration_ms, microseconds=index),
                "step": step,
                "number": numbers[step],
                "outcome": outcome,
                "started": started_at,
                "ms": duration_ms,
            },
        )
    assert (await driver.repository.finish(order_id, State.CANCELLED)).state is State.CANCELLED
    return order_id


async def test_review_ms_is_from_in_review_to_approval_or_abort(driver):
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
async def test_an_order_requested_long_ago_gets_its_outcome(driver, due_ago):
    order = new_order(requested_at=datetime.now(UTC) - due_ago)
    order_id = await driver.carry_to(State.COMPLETED, order)
    row = await driver.row(order_id)
    assert row["state"] == "completed"
    assert row["end_to_end_ms"] == row["ingress_ms"] + row["completion_ms"]


# All ages differ: the longest order of a bucket of the rollup identifies the order below.
@pytest.mark.parametrize(
    ("outcome", "days_ago"),
    [(State.COMPLETED, 26), (State.COMPLETED, 20_000), (State.FAILED, 27), (State.FAILED, 20_001)],
)
async def test_an_order_that_was_open_for_weeks_gets_its_outcome(driver, pool, days_ago, outcome):
    accepted_at = datetime.now(UTC) - timedelta(days=days_ago)
    order_id = await driver.open(accepted_at=accepted_at)
    await driver.step(order_id, Step.RECEIVE)
    if outcome is State.COMPLETED:
        await driver.step(order_id, Step.VALIDATE)
        await driver.repository.approve(order_id, "reviewer")
        for step in (Step.CHARGE, Step.PREPARE, Step.DISPATCH):
            # As long as the order was open: it is the time of a step too.
            await driver.step(order_id, step, duration_ms=days_ago * 86_400_000 / 3)
    else:
        await driver.abort(order_id, Reason.DEADLINE)
    assert (await driver.repository.finish(order_id, outcome)).state is outcome
    row = await driver.row(order_id)
    assert row["completion_ms"] == pytest.approx(days_ago * 86_400_000, abs=60_000)
    assert row["within_limit"] is False
    (bucket,) = await pool.fetch_all(
        "select * from latency_rollup where grain_seconds = 60 and longest_ms = %(ms)s",
        {"ms": row["completion_ms"]},
    )
    assert (bucket["upto_ms"], bucket["completion_ms"]) == (EDGES_MS[-1], row["completion_ms"])
    alone = LatencyFilter(since=row["accepted_at"], until=row["accepted_at"] + timedelta(milliseconds=1))
    summary = await latency_report.latency_summary(pool, alone)
    assert summary["parts"]["completion"]["max"] == row["completion_ms"]
    assert (await order_metrics.counters(pool)).completion_ms >= row["completion_ms"]


async def test_an_order_that_finishes_after_its_deadline_is_late(driver):
    order_id = await driver.open(accepted_at=datetime.now(UTC) - timedelta(seconds=20))
    await driver.abort(order_id, Reason.DEADLINE)
    await driver.repository.finish(order_id, State.FAILED)
    row = await driver.row(order_id)
    assert not row["within_limit"]
    assert row["completion_ms"] >= 20_000


# --- Concurrent statements ----------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
async def test_one_order_keeps_every_rule_under_concurrent_statements(driver, pool, seed):
    dice = random.Random(seed)
    order_id = await driver.carry_to(dice.choice(RESTING_STATES[:-1]))
    approvals_before = 1 if (await driver.row(order_id))["reviewer"] else 0
    pens = [OrderRepository(pool, f"worker-{number}", TEMPORAL) for number in range(4)]

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
    addresses = [
        driver.change_address(order_id, replace(OTHER_ADDRESS, street=f"{n} Side Street")) for n in range(4)
    ]
    steps = [work(step) for step in (*DUE_STATE, *COMPENSATION_DETAILS) for _ in range(5)]
    finishes = [driver.repository.finish(order_id, outcome) for outcome in TERMINAL_STATES]
    everything = [*approvals, *aborts, *addresses, *steps, *finishes]
    positions = list(range(len(everything)))
    dice.shuffle(positions)
    decisions = dict(
        zip(positions, await asyncio.gather(*(everything[position] for position in positions)), strict=True)
    )
    accepted_aborts = sum(decisions[position].accepted for position in range(4, 6))
    accepted_approvals = sum(decisions[position].accepted for position in range(4))
    accepted_addresses = sum(decisions[position].accepted for position in range(6, 10))

    row, events = await driver.row(order_id), await driver.events(order_id)
    assert times_increase(events)
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
    if row["state"] in TERMINAL_STATES:
        assert events[-1]["kind"] == "outcome"
        assert [event["kind"] for event in events].count("outcome") == 1
        assert await driver.open_attempts(order_id) == 0
        assert row["attempts"] == sum(event["kind"] == "attempt" for event in events)
        assert row["completion_ms"] == sum(row[part] for part in PARTS) + row["waiting_ms"]
        assert row["waiting_ms"] >= 0
