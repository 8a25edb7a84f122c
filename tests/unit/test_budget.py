"""The deadline arithmetic, for any limit and any luck."""

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
from orchestrator.activities.step_runner import MAX_BACKOFF
from orchestrator.deadlines import ATTEMPT_TIMEOUT, COMPENSATION_NEED, FINISH_NEED, STEP_NEEDS, OrderDeadlines
from orchestrator.messages import StepResult, StepStatus
from orchestrator.workflows.order_steps import TIME_BUDGET
from tests.unit.paper import HANGS, Paper, on_paper

ACCEPTED_AT = datetime(2030, 1, 1, 12, tzinfo=UTC)
FORWARD = [Step.RECEIVE, Step.VALIDATE, Step.REVIEW, Step.CHARGE, Step.PREPARE, Step.DISPATCH]
AMPLE = sum(STEP_NEEDS.values(), timedelta(0)) + COMPENSATION_NEED + FINISH_NEED + ATTEMPT_TIMEOUT
"""The shortest limit for which nothing that is kept back has to shrink."""

ROUNDING = timedelta(microseconds=10)
AFFORDABLE_FAILURES = 6
"""As many attempts of a compensation may fail, each as slowly as it can, and it is still over in its time:
6 x 200 ms, the pauses of 800 ms between them, and 200 ms for the one that works."""


class Ending(StrEnum):
    """What follows the failed attempts of a step. FAILS: the same ones over and over, for ever."""

    WORKS = "works"
    DECLINED = "declined"
    FAILS = "fails"


WORKS = ("ok", ATTEMPT_TIMEOUT - timedelta(milliseconds=1))

limits = st.timedeltas(min_value=timedelta(milliseconds=1), max_value=timedelta(hours=1))
lifetimes = st.one_of(
    st.just(timedelta(seconds=15)),
    st.timedeltas(min_value=timedelta(milliseconds=1), max_value=timedelta(seconds=16)),
)
durations = st.timedeltas(min_value=timedelta(0), max_value=ATTEMPT_TIMEOUT)
failures = st.one_of(st.just(HANGS), st.tuples(st.just("error"), durations))
luck = st.tuples(
    st.lists(failures, max_size=20),
    st.sampled_from([Ending.WORKS, Ending.WORKS, Ending.FAILS, Ending.DECLINED]),
)
lucks = st.fixed_dictionaries({step: luck for step in FORWARD if step is not Step.REVIEW})
reviews = st.timedeltas(min_value=timedelta(0), max_value=timedelta(hours=2))
patiences = st.timedeltas(min_value=timedelta(0), max_value=timedelta(seconds=2))


def budget(limit: timedelta) -> OrderDeadlines:
    return OrderDeadlines(ACCEPTED_AT, limit)


@dataclass(frozen=True)
class Life:
    """One order lived through on paper, by the product's own loop of attempts, as far as the plan allows."""

    ended_at: datetime
    done: list[Step]
    charge_attempts: list[datetime]

    @property
    def is_aborted(self) -> bool:
        return self.done != FORWARD


Luck = tuple[list[tuple[str, timedelta]], Ending]


def script(luck: Luck) -> Iterator[tuple[str, timedelta]]:
    failing, ending = luck
    if ending is Ending.FAILS:
        return itertools.cycle(failing or [HANGS])
    return iter([*failing, WORKS if ending is Ending.WORKS else ("declined", timedelta(0))])


def live(
    plan: OrderDeadlines, lucks: dict[Step, Luck], review: timedelta, time_budget: timedelta = TIME_BUDGET
) -> Life:
    async def lived(paper: Paper) -> Life:
        done = []
        for step in FORWARD:
            if step is Step.REVIEW:
                time_left = max(plan.not_after(step) - paper.now(), timedelta(0))
                await asyncio.sleep(min(review, time_left).total_seconds())
            else:
                result = await paper.carry_out(step, script(lucks[step]), plan.not_after(step), time_budget)
                if result.status is not StepStatus.DONE:
                    break
            done.append(step)
        return Life(paper.now(), done, paper.begun.get(Step.CHARGE, []))

    return on_paper(plan.accepted_at, lived)


@given(limits)
def test_no_step_may_start_an_attempt_later_than_the_next_step(limit):
    moments = [budget(limit).not_after(step) for step in FORWARD]
    assert moments == sorted(moments)


@given(limits)
def test_the_last_attempt_of_every_step_ends_before_the_abort(limit):
    plan = budget(limit)
    for step in FORWARD:
        assert plan.not_after(step) + ATTEMPT_TIMEOUT <= plan.abort_at
    assert plan.abort_at < plan.deadline_at == ACCEPTED_AT + limit


@given(lifetimes, lucks, st.lists(failures, max_size=20), reviews, patiences)
def test_no_charge_starts_without_time_to_ship_and_to_compensate(limit, lucks, failing, review, time_budget):
    plan = budget(limit)
    life = live(plan, lucks | {Step.CHARGE: (failing, Ending.FAILS)}, review, time_budget)
    shrunk = min(1.0, limit / AMPLE)
    for charged_at in life.charge_attempts:
        ends_at = charged_at + ATTEMPT_TIMEOUT
        assert (
            plan.abort_at - ends_at >= (STEP_NEEDS[Step.PREPARE] + STEP_NEEDS[Step.DISPATCH]) * shrunk * 0.999
        )
        assert plan.deadline_at - ends_at >= (COMPENSATION_NEED + FINISH_NEED) * shrunk * 0.999
        # However short the limit: at least one refund fits between the charge and the deadline.
        assert plan.deadline_at - ends_at >= ATTEMPT_TIMEOUT


@given(lifetimes, lucks, reviews, patiences)
def test_the_forward_steps_end_before_the_time_reserved_for_compensation(
    limit, lucks, review, time_budget
):
    plan = budget(limit)
    life = live(plan, lucks, review, time_budget)
    if life.done:
        assert life.ended_at <= plan.abort_at + ROUNDING
    else:
        # With a limit too short for anything, not even a first attempt is made.
        assert life.ended_at <= max(plan.abort_at, plan.accepted_at) + ROUNDING


@given(lifetimes, st.lists(failures, max_size=20))
def test_a_step_that_always_fails_uses_all_its_time(limit, failing):
    plan = budget(limit)
    life = live(plan, {Step.RECEIVE: (failing, Ending.FAILS)}, timedelta(0))
    assert life.done == []
    assert life.ended_at >= plan.not_after(Step.RECEIVE) - MAX_BACKOFF


@given(
    st.timedeltas(min_value=AMPLE, max_value=timedelta(hours=1)),
    *[st.lists(failures, max_size=AFFORDABLE_FAILURES)] * 2,
    patiences,
)
def test_an_order_aborted_at_the_last_moment_is_finished_by_its_deadline(
    limit, refunding, recalling, time_budget
):
    plan = budget(limit)

    async def undone(paper: Paper) -> tuple[list[StepResult], datetime]:
        scripts = {Step.REFUND: refunding, Step.RECALL: recalling}
        results = await asyncio.gather(
            *(paper.carry_out(step, [*script, WORKS], None, time_budget) for step, script in scripts.items())
        )
        return results, paper.now()

    results, ended_at = on_paper(plan.abort_at, undone)
    assert [result.status for result in results] == [StepStatus.DONE] * 2
    assert ended_at + FINISH_NEED <= plan.deadline_at


@settings(max_examples=20)
@given(st.lists(failures, min_size=20, max_size=60))
def test_a_compensation_is_retried_after_the_deadline(script):
    plan = budget(timedelta(seconds=15))

    async def undone(paper: Paper) -> StepResult:
        return await paper.carry_out(Step.REFUND, [*script, WORKS], None, TIME_BUDGET)

    result = on_paper(plan.deadline_at, undone)
    assert (result.status, result.attempts) == (StepStatus.DONE, len(script) + 1)


@given(st.timedeltas(min_value=AMPLE, max_value=timedelta(hours=1)))
def test_a_long_limit_does_not_shrink_the_reserved_times(limit):
    plan = budget(limit)
    assert plan.deadline_at - plan.abort_at == COMPENSATION_NEED + FINISH_NEED
    for step, following in itertools.pairwise(FORWARD):
        assert plan.not_after(following) - plan.not_after(step) == STEP_NEEDS[following]


@given(limits, limits)
def test_a_longer_limit_never_ends_a_step_earlier(one, other):
    shorter, longer = sorted((one, other))
    for step in FORWARD:
        # Half a percent of slack for the rounding of scaled moments to microseconds.
        assert budget(shorter).not_after(step) <= budget(longer).not_after(step) + timedelta(microseconds=20)


@given(limits, st.datetimes(timezones=st.just(UTC)))
def test_deadlines_depend_only_on_the_acceptance_and_the_limit(limit, accepted_at):
    moved = OrderDeadlines(accepted_at, limit)
    for step in FORWARD:
        assert moved.not_after(step) - moved.accepted_at == budget(limit).not_after(step) - ACCEPTED_AT


def test_the_deadlines_of_15_seconds_match_the_documentation():
    plan = budget(timedelta(seconds=15))
    seconds = {step: (plan.not_after(step) - ACCEPTED_AT).total_seconds() for step in FORWARD}
    assert (plan.abort_at - ACCEPTED_AT).total_seconds() == 11.75
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
    with pytest.raises(KeyError):
        budget(timedelta(seconds=15)).not_after(step)


@pytest.mark.parametrize("limit", [timedelta(0), timedelta(milliseconds=1), timedelta(seconds=1)])
def test_with_a_limit_of_zero_no_step_starts(limit):
    life = live(budget(limit), {step: ([], Ending.WORKS) for step in FORWARD}, timedelta(0))
    assert life.is_aborted
    assert life.done == []
