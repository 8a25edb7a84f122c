"""Deadline arithmetic: properties for any limit and any outcomes of the attempts."""

import asyncio
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from db.domain import COMPENSATIONS, Step
from orchestrator.activities.step_runner import MAX_QUICK_BACKOFF
from orchestrator.deadlines import (
    ATTEMPT_TIMEOUT,
    COMPENSATION_NEED,
    FINISH_NEED,
    MAX_BACKOFF,
    STEP_NEEDS,
    OrderDeadlines,
    backoff,
)
from orchestrator.messages.activities import StepResult, StepStatus
from orchestrator.workflows.order_steps import TIME_BUDGET
from tests.unit.simulated_attempts import HANGS, SimulatedAttempts, in_simulated_time

ACCEPTED_AT = datetime(2030, 1, 1, 12, tzinfo=UTC)
FORWARD = [Step.RECEIVE, Step.VALIDATE, Step.REVIEW, Step.CHARGE, Step.PREPARE, Step.DISPATCH]
LONG_ENOUGH = sum(STEP_NEEDS.values(), timedelta(0)) + COMPENSATION_NEED + FINISH_NEED + ATTEMPT_TIMEOUT
"""The shortest limit for which no reserved time shrinks."""

ROUNDING = timedelta(microseconds=10)
AFFORDABLE_FAILURES = 6
"""Failed attempts of the longest duration after which a compensation still ends in its reserved time: 6 x
200 ms, 800 ms of backoff between them, and 200 ms for the successful one."""


class Ending(StrEnum):
    """What follows the failed attempts of a step. FAILS: the same failures again, forever."""

    SUCCEEDS = "succeeds"
    DECLINED = "declined"
    FAILS = "fails"


SUCCESS = ("ok", ATTEMPT_TIMEOUT - timedelta(milliseconds=1))

limits = st.timedeltas(min_value=timedelta(milliseconds=1), max_value=timedelta(hours=1))
order_limits = st.one_of(
    st.just(timedelta(seconds=15)),
    st.timedeltas(min_value=timedelta(milliseconds=1), max_value=timedelta(seconds=16)),
)
durations = st.timedeltas(min_value=timedelta(0), max_value=ATTEMPT_TIMEOUT)
failures = st.one_of(st.just(HANGS), st.tuples(st.just("error"), durations))
attempt_scripts = st.tuples(
    st.lists(failures, max_size=20),
    st.sampled_from([Ending.SUCCEEDS, Ending.SUCCEEDS, Ending.FAILS, Ending.DECLINED]),
)
scripts_of_steps = st.fixed_dictionaries(
    {step: attempt_scripts for step in FORWARD if step is not Step.REVIEW}
)
reviews = st.timedeltas(min_value=timedelta(0), max_value=timedelta(hours=2))
time_budgets = st.timedeltas(min_value=timedelta(0), max_value=timedelta(seconds=2))


def deadlines_of(limit: timedelta) -> OrderDeadlines:
    return OrderDeadlines(ACCEPTED_AT, limit)


@dataclass(frozen=True)
class SimulatedOrder:
    """One order in simulated time, with the product's own loop of attempts."""

    ended_at: datetime
    done: list[Step]
    charge_attempts: list[datetime]

    @property
    def is_aborted(self) -> bool:
        return self.done != FORWARD


AttemptScript = tuple[list[tuple[str, timedelta]], Ending]


def outcomes(script: AttemptScript) -> Iterator[tuple[str, timedelta]]:
    failing, ending = script
    if ending is Ending.FAILS:
        return itertools.cycle(failing or [HANGS])
    return iter([*failing, SUCCESS if ending is Ending.SUCCEEDS else ("declined", timedelta(0))])


def simulate(
    deadlines: OrderDeadlines,
    scripts: dict[Step, AttemptScript],
    review: timedelta,
    time_budget: timedelta = TIME_BUDGET,
) -> SimulatedOrder:
    async def run(attempts: SimulatedAttempts) -> SimulatedOrder:
        done = []
        for step in FORWARD:
            if step is Step.REVIEW:
                time_left = max(deadlines.not_after(step) - attempts.now(), timedelta(0))
                await asyncio.sleep(min(review, time_left).total_seconds())
            else:
                result = await attempts.run_step(
                    step, outcomes(scripts[step]), deadlines.not_after(step), time_budget
                )
                if result.status is not StepStatus.DONE:
                    break
            done.append(step)
        return SimulatedOrder(attempts.now(), done, attempts.started.get(Step.CHARGE, []))

    return in_simulated_time(deadlines.accepted_at, run)


@given(limits)
def test_no_step_may_start_an_attempt_later_than_the_next_step(limit):
    times = [deadlines_of(limit).not_after(step) for step in FORWARD]
    assert times == sorted(times)


@given(limits)
def test_the_last_attempt_of_every_step_ends_before_the_abort(limit):
    deadlines = deadlines_of(limit)
    for step in FORWARD:
        assert deadlines.not_after(step) + ATTEMPT_TIMEOUT <= deadlines.abort_at
    assert deadlines.abort_at < deadlines.deadline_at == ACCEPTED_AT + limit


@given(order_limits, scripts_of_steps, st.lists(failures, max_size=20), reviews, time_budgets)
def test_no_charge_starts_without_time_to_ship_and_to_compensate(
    limit, scripts, failing, review, time_budget
):
    deadlines = deadlines_of(limit)
    order = simulate(deadlines, scripts | {Step.CHARGE: (failing, Ending.FAILS)}, review, time_budget)
    shrunk = min(1.0, limit / LONG_ENOUGH)
    for charged_at in order.charge_attempts:
        ends_at = charged_at + ATTEMPT_TIMEOUT
        assert (
            deadlines.abort_at - ends_at
            >= (STEP_NEEDS[Step.PREPARE] + STEP_NEEDS[Step.DISPATCH]) * shrunk * 0.999
        )
        assert deadlines.deadline_at - ends_at >= (COMPENSATION_NEED + FINISH_NEED) * shrunk * 0.999
        # For any limit, at least one refund fits between the charge and the deadline.
        assert deadlines.deadline_at - ends_at >= ATTEMPT_TIMEOUT


@given(order_limits, scripts_of_steps, reviews, time_budgets)
def test_the_forward_steps_end_before_the_time_reserved_for_compensation(limit, scripts, review, time_budget):
    deadlines = deadlines_of(limit)
    order = simulate(deadlines, scripts, review, time_budget)
    if order.done:
        assert order.ended_at <= deadlines.abort_at + ROUNDING
    else:
        # With a limit too short for any step, no attempt starts.
        assert order.ended_at <= max(deadlines.abort_at, deadlines.accepted_at) + ROUNDING


@given(order_limits, st.lists(failures, max_size=20))
def test_a_step_that_always_fails_uses_all_its_time(limit, failing):
    deadlines = deadlines_of(limit)
    order = simulate(deadlines, {Step.RECEIVE: (failing, Ending.FAILS)}, timedelta(0))
    assert order.done == []
    assert order.ended_at >= deadlines.not_after(Step.RECEIVE) - MAX_QUICK_BACKOFF


@given(
    st.timedeltas(min_value=LONG_ENOUGH, max_value=timedelta(hours=1)),
    *[st.lists(failures, max_size=AFFORDABLE_FAILURES)] * 2,
    time_budgets,
)
def test_an_order_aborted_at_the_last_moment_is_finished_by_its_deadline(
    limit, refunding, recalling, time_budget
):
    deadlines = deadlines_of(limit)

    async def compensate(attempts: SimulatedAttempts) -> tuple[list[StepResult], datetime]:
        scripts = {Step.REFUND: refunding, Step.RECALL: recalling}
        results = await asyncio.gather(
            *(
                attempts.run_step(step, [*script, SUCCESS], None, time_budget)
                for step, script in scripts.items()
            )
        )
        return results, attempts.now()

    results, ended_at = in_simulated_time(deadlines.abort_at, compensate)
    assert [result.status for result in results] == [StepStatus.DONE] * 2
    assert ended_at + FINISH_NEED <= deadlines.deadline_at


@settings(max_examples=20)
@given(st.lists(failures, min_size=20, max_size=60))
def test_a_compensation_is_retried_after_the_deadline(script):
    deadlines = deadlines_of(timedelta(seconds=15))

    async def compensate(attempts: SimulatedAttempts) -> StepResult:
        return await attempts.run_step(Step.REFUND, [*script, SUCCESS], None, TIME_BUDGET)

    result = in_simulated_time(deadlines.deadline_at, compensate)
    assert (result.status, result.attempts) == (StepStatus.DONE, len(script) + 1)


@given(st.timedeltas(min_value=LONG_ENOUGH, max_value=timedelta(hours=1)))
def test_a_long_limit_does_not_shrink_the_reserved_times(limit):
    deadlines = deadlines_of(limit)
    assert deadlines.deadline_at - deadlines.abort_at == COMPENSATION_NEED + FINISH_NEED
    for step, following in itertools.pairwise(FORWARD):
        assert deadlines.not_after(following) - deadlines.not_after(step) == STEP_NEEDS[following]


@given(limits, limits)
def test_a_longer_limit_never_ends_a_step_earlier(one, other):
    shorter, longer = sorted((one, other))
    for step in FORWARD:
        # Half a percent of slack for the rounding of scaled times to microseconds.
        assert deadlines_of(shorter).not_after(step) <= deadlines_of(longer).not_after(step) + timedelta(
            microseconds=20
        )


@given(limits, st.datetimes(timezones=st.just(UTC)))
def test_deadlines_depend_only_on_the_acceptance_and_the_limit(limit, accepted_at):
    moved = OrderDeadlines(accepted_at, limit)
    for step in FORWARD:
        assert moved.not_after(step) - moved.accepted_at == deadlines_of(limit).not_after(step) - ACCEPTED_AT


def test_the_deadlines_of_15_seconds_match_the_documentation():
    deadlines = deadlines_of(timedelta(seconds=15))
    seconds = {step: (deadlines.not_after(step) - ACCEPTED_AT).total_seconds() for step in FORWARD}
    assert (deadlines.abort_at - ACCEPTED_AT).total_seconds() == 11.75
    assert seconds == {
        Step.RECEIVE: 8.15,
        Step.VALIDATE: 8.95,
        Step.REVIEW: 8.95,
        Step.CHARGE: 9.95,
        Step.PREPARE: 10.75,
        Step.DISPATCH: 11.55,
    }


@pytest.mark.parametrize("step", COMPENSATIONS)
def test_a_compensation_has_no_deadline(step):
    with pytest.raises(ValueError, match="not in tuple"):
        deadlines_of(timedelta(seconds=15)).not_after(step)


@pytest.mark.parametrize("limit", [timedelta(0), timedelta(milliseconds=1), timedelta(seconds=1)])
def test_with_a_limit_of_zero_no_step_starts(limit):
    order = simulate(deadlines_of(limit), {step: ([], Ending.SUCCEEDS) for step in FORWARD}, timedelta(0))
    assert order.is_aborted
    assert order.done == []


# --- Backoff ------------------------------------------------------------------------------------------


@given(retries=st.integers(0, 10_000), jitter=st.floats(0, 1))
def test_the_backoff_doubles_up_to_its_maximum_and_jitter_shortens_it_by_up_to_half(
    retries: int, jitter: float
) -> None:
    first = timedelta(milliseconds=500)
    longest = min(first * 2 ** min(retries, 6), MAX_BACKOFF)
    assert longest / 2 - ROUNDING <= backoff(first, retries, jitter) <= longest


@given(retries=st.integers(0, 100), jitter=st.floats(0, 1), time_left=limits)
def test_the_backoff_leaves_time_for_further_retries(
    retries: int, jitter: float, time_left: timedelta
) -> None:
    first = timedelta(milliseconds=500)
    assert backoff(first, retries, jitter, time_left) <= max(time_left / 4, first / 2)
