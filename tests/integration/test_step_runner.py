"""StepRunner: attempts, backoff, time limits and outages, with scripted gateway calls on PostgreSQL."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from time import perf_counter

import pytest
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from db.domain import COMPENSATIONS, State, Step
from db.orders import OrderRepository, StaleAttempt
from orchestrator.activities import step_runner
from orchestrator.activities.step_runner import MAX_QUICK_BACKOFF, StepRunner
from orchestrator.deadlines import ATTEMPT_TIMEOUT
from orchestrator.errors import DatabaseUnavailable, GatewayDeclined, GatewayError
from orchestrator.messages.activities import StepRequest, StepStatus
from orchestrator.settings.gateways import SIMULATED_CALLS
from tests.orders import NO_FAULTS, TEMPORAL, failed

SOON = timedelta(seconds=2)
LATER = timedelta(seconds=60)


class ScriptedCall:
    """A gateway call that follows a script: None succeeds, an exception is raised, a number is slept."""

    def __init__(self, *script) -> None:
        self.script = list(script)
        self.calls = []

    async def __call__(self, attempt):
        self.calls.append(attempt)
        answer = self.script.pop(0) if self.script else None
        if isinstance(answer, Exception):
            raise answer
        if answer is not None:
            await asyncio.sleep(answer)
        return {"call": len(self.calls)}


def request(
    order_id: str, step: Step = Step.RECEIVE, *, within: timedelta | None = LATER, time_budget=None
) -> StepRequest:
    not_after = None if within is None else datetime.now(UTC) + within
    return StepRequest(order_id, step, not_after, time_budget)


async def run(repository, step_request, call):
    """Run a step in an activity environment; return its result and its heartbeats."""
    environment, heartbeats = ActivityEnvironment(), []
    environment.on_heartbeat = lambda *details: heartbeats.append(details)

    async def activity():
        return await StepRunner(repository, NO_FAULTS).run(step_request, call)

    return await environment.run(activity), heartbeats


# --- Outcomes of the call -------------------------------------------------------------------------


async def test_a_successful_call_is_made_once_and_its_response_is_stored(driver):
    order_id, call = await driver.open(), ScriptedCall()
    result, _ = await run(driver.repository, request(order_id), call)
    assert (result.status, result.attempts, len(call.calls)) == (StepStatus.DONE, 1, 1)
    (event,) = await driver.events(order_id, "attempt")
    assert (event["outcome"], event["detail"]) == ("ok", {"call": 1})


async def test_every_attempt_is_stored_with_its_outcome_and_duration(driver):
    order_id = await driver.open()
    call = ScriptedCall(GatewayError("no"), 300.0, GatewayError("no again"))
    result, heartbeats = await run(driver.repository, request(order_id), call)
    assert (result.status, result.attempts) == (StepStatus.DONE, 4)
    assert await driver.attempts(order_id) == [
        ("receive", 1, "error"),
        ("receive", 2, "timeout"),
        ("receive", 3, "error"),
        ("receive", 4, "ok"),
    ]
    events = await driver.events(order_id, "attempt")
    timeout_ms = ATTEMPT_TIMEOUT.total_seconds() * 1000
    assert [event["detail"].get("error") for event in events] == [
        "no",
        f"no response within {timeout_ms:.0f} ms",
        "no again",
        None,
    ]
    assert timeout_ms <= events[1]["duration_ms"] < timeout_ms + 5000
    assert heartbeats == [(1, None), (2, "no"), (3, events[1]["detail"]["error"]), (4, "no again")]


async def test_a_declined_call_is_not_repeated(driver):
    order_id, call = await driver.open(), ScriptedCall(GatewayError("no"), GatewayDeclined("never"))
    result, _ = await run(driver.repository, request(order_id), call)
    assert (result.status, result.attempts, result.message) == (StepStatus.DECLINED, 2, "never")
    assert result.address_version is None, "the call has no address"
    assert (await driver.attempts(order_id))[-1] == ("receive", 2, "declined")
    assert await driver.open_attempts(order_id) == 1
    assert (await driver.repository.start_next_attempt(order_id, Step.RECEIVE)).number == 3


@pytest.mark.parametrize("step", COMPENSATIONS)
async def test_a_declined_compensation_is_repeated_until_it_succeeds(driver, step):
    order_id = await driver.carry_to(State.PREPARED)
    await driver.abort(order_id)
    call = ScriptedCall(GatewayDeclined("first"), GatewayDeclined("second"))
    began = perf_counter()
    result, _ = await run(driver.repository, request(order_id, step, within=None), call)
    assert (result.status, result.attempts) == (StepStatus.DONE, 3)
    assert perf_counter() - began >= 2 * MAX_QUICK_BACKOFF.total_seconds(), (
        "a declined call is repeated after the backoff"
    )
    outcomes = [outcome for of_step, _, outcome in await driver.attempts(order_id) if of_step == step]
    assert outcomes == ["declined", "declined", "ok"]


async def test_errors_back_off(driver):
    order_id, call = await driver.open(), ScriptedCall(*[GatewayError("no")] * 4)
    began = perf_counter()
    await run(driver.repository, request(order_id), call)
    # 20 + 40 + 80 + 160 ms of backoff.
    assert perf_counter() - began >= 0.3


async def test_an_unexpected_error_leaves_the_attempt_open_and_the_next_run_records_it_as_lost(driver):
    order_id = await driver.open()
    with pytest.raises(ZeroDivisionError):
        await run(driver.repository, request(order_id), ScriptedCall(ZeroDivisionError("bug")))
    result, _ = await run(driver.repository, request(order_id), ScriptedCall())
    assert (result.status, result.attempts) == (StepStatus.DONE, 2)
    assert await driver.attempts(order_id) == [("receive", 1, "lost"), ("receive", 2, "ok")]


# --- When the runner stops
# ------------------------------------------------------------------------------------


async def test_no_attempt_starts_after_not_after(driver):
    order_id, call = await driver.open(), ScriptedCall()
    result, _ = await run(driver.repository, request(order_id, within=timedelta(0)), call)
    assert (result.status, call.calls) == (StepStatus.OUT_OF_TIME, [])
    assert await driver.attempts(order_id) == []


async def test_attempts_are_repeated_until_not_after_and_the_last_one_is_closed(driver):
    order_id, call = await driver.open(), ScriptedCall(*[GatewayError("no")] * 1000)
    step_request = request(order_id, within=SOON)
    result, _ = await run(driver.repository, step_request, call)
    assert result.status is StepStatus.OUT_OF_TIME
    assert result.attempts == len(call.calls) >= 2
    events = await driver.events(order_id, "attempt")
    assert [event["outcome"] for event in events] == ["error"] * result.attempts
    assert all(event["started_at"] <= step_request.not_after for event in events)


async def test_a_step_whose_time_budget_is_used_up_returns_unfinished(driver):
    order_id, call = await driver.open(), ScriptedCall(*[GatewayError("no")] * 1000)
    result, _ = await run(driver.repository, request(order_id, time_budget=0.2), call)
    assert result.status is StepStatus.UNFINISHED
    assert [outcome for _, _, outcome in await driver.attempts(order_id)] == ["error"] * result.attempts
    # The next run continues the numbers, without a lost attempt.
    following, _ = await run(driver.repository, request(order_id), ScriptedCall())
    assert (following.status, following.attempts) == (StepStatus.DONE, result.attempts + 1)


async def test_a_zero_time_budget_allows_one_attempt(driver):
    order_id, call = await driver.open(), ScriptedCall(GatewayError("no"))
    result, _ = await run(driver.repository, request(order_id, time_budget=0.0), call)
    assert (result.status, len(call.calls)) == (StepStatus.UNFINISHED, 1)


async def test_a_compensation_has_no_time_limit(driver):
    order_id = await driver.carry_to(State.CHARGED)
    await driver.abort(order_id)
    call = ScriptedCall(*[GatewayError("no")] * 6)
    result, _ = await run(driver.repository, request(order_id, Step.REFUND, within=None), call)
    assert (result.status, result.attempts) == (StepStatus.DONE, 7)


@pytest.mark.parametrize("step", [Step.REFUND, Step.RECALL])
async def test_a_compensation_that_is_not_due_is_done_without_a_call(driver, step):
    order_id, call = await driver.carry_to(State.DISPATCHED), ScriptedCall()
    result, _ = await run(driver.repository, request(order_id, step, within=None), call)
    assert (result.status, call.calls) == (StepStatus.DONE, [])


async def test_an_aborted_order_gets_no_further_attempt(driver):
    order_id = await driver.open()

    async def call(attempt):
        await driver.abort(order_id)
        raise GatewayError("no")

    result, _ = await run(driver.repository, request(order_id), call)
    assert (result.status, result.attempts) == (StepStatus.ABORTED, 1)
    assert await driver.attempts(order_id) == [("receive", 1, "error")]
    assert await driver.open_attempts(order_id) == 1


async def test_a_call_that_succeeds_after_the_abort_is_recorded_and_returns_aborted(driver):
    order_id = await driver.carry_to(State.APPROVED)

    async def call(attempt):
        await driver.abort(order_id)
        return {}

    result, _ = await run(driver.repository, request(order_id, Step.CHARGE), call)
    assert result.status is StepStatus.ABORTED
    assert (await driver.row(order_id))["state"] == "approved"
    assert await driver.attempts(order_id, Step.CHARGE) == [("charge", 1, "ok")]


async def test_a_completed_step_is_not_called_again(driver):
    order_id, call = await driver.carry_to(State.CHARGED), ScriptedCall()
    events = await driver.events(order_id)
    result, _ = await run(driver.repository, request(order_id, Step.CHARGE), call)
    assert (result.status, call.calls) == (StepStatus.DONE, [])
    assert await driver.events(order_id) == events


async def test_receive_is_not_called_again_once_it_is_completed(driver):
    order_id, call = await driver.open(), ScriptedCall()
    for _ in range(2):
        result, _ = await run(driver.repository, request(order_id), call)
        assert result.status is StepStatus.DONE
    assert len(call.calls) == 1
    assert await driver.attempts(order_id) == [("receive", 1, "ok")]


async def test_a_completed_step_is_done_even_after_not_after(driver):
    order_id = await driver.carry_to(State.PREPARED)
    result, _ = await run(
        driver.repository, request(order_id, Step.CHARGE, within=timedelta(0)), ScriptedCall()
    )
    assert result.status is StepStatus.DONE


async def test_an_unknown_order_raises_lookup_error(driver):
    with pytest.raises(LookupError):
        await run(driver.repository, request("unknown"), ScriptedCall())


async def test_a_worker_with_a_stale_attempt_stops(driver):
    order_id = await driver.open()

    async def call(attempt):
        await driver.repository.start_next_attempt(order_id, Step.RECEIVE)
        raise GatewayError("no")

    with pytest.raises(StaleAttempt):
        await run(driver.repository, request(order_id), call)
    assert await driver.attempts(order_id) == [("receive", 1, "lost")]


async def test_a_step_in_concurrent_activities_is_completed_once(driver):
    order_id = await driver.carry_to(State.APPROVED)
    results = await asyncio.gather(
        *(
            run(driver.repository, request(order_id, Step.CHARGE), ScriptedCall(GatewayError("no"), 0.02))
            for _ in range(4)
        ),
        return_exceptions=True,
    )
    done = [result for result in results if not isinstance(result, BaseException)]
    assert done
    assert {result.status for result, _ in done} == {StepStatus.DONE}
    assert all(isinstance(result, (tuple, StaleAttempt)) for result in results)
    assert (await driver.row(order_id))["state"] == "charged"
    moves = [event for event in await driver.events(order_id) if event["state"] == "charged"]
    assert len(moves) == 1


# --- A stopping worker -----------------------------------------------------------------------------


async def ended(repository, step_request, call):
    """As `run`, on a worker that is stopping."""
    environment = ActivityEnvironment()
    environment.worker_shutdown()

    async def activity():
        return await StepRunner(repository, NO_FAULTS).run(step_request, call)

    return await environment.run(activity)


async def test_a_stopping_worker_starts_no_attempt_and_returns_unfinished_to_a_waiting_workflow(driver):
    order_id, call = await driver.open(), ScriptedCall()
    result = await ended(driver.repository, request(order_id, time_budget=2.0), call)
    assert (result.status, call.calls) == (StepStatus.UNFINISHED, [])
    assert await driver.attempts(order_id) == []


@pytest.mark.parametrize("step", [Step.CHARGE, Step.REFUND])
async def test_a_stopping_worker_hands_a_regular_activity_over_at_once(driver, step):
    order_id, call = await driver.carry_to(State.APPROVED), ScriptedCall()
    if step is Step.REFUND:
        await driver.abort(order_id)
    with pytest.raises(ApplicationError) as handed_over:
        await ended(driver.repository, request(order_id, step), call)
    assert not handed_over.value.non_retryable
    assert handed_over.value.next_retry_delay <= timedelta(milliseconds=10)
    assert call.calls == []


async def test_the_running_attempt_is_closed_before_a_step_is_handed_over(driver):
    order_id, environment = await driver.open(), ActivityEnvironment()

    async def call(attempt):
        environment.worker_shutdown()
        raise GatewayError("no")

    async def activity():
        return await StepRunner(driver.repository, NO_FAULTS).run(request(order_id), call)

    with pytest.raises(ApplicationError):
        await environment.run(activity)
    assert await driver.attempts(order_id) == [("receive", 1, "error")]


async def test_a_stopping_worker_still_returns_done_or_aborted(driver):
    charged, aborted = await driver.carry_to(State.CHARGED), await driver.carry_to(State.APPROVED)
    await driver.abort(aborted)
    assert (
        await ended(driver.repository, request(charged, Step.CHARGE), ScriptedCall())
    ).status is StepStatus.DONE
    assert (
        await ended(driver.repository, request(aborted, Step.CHARGE), ScriptedCall())
    ).status is StepStatus.ABORTED


# --- Database outages -----------------------------------------------------------------------------------


class Flaky:
    """A repository whose method fails a number of times: before, or after the write."""

    def __init__(
        self, repository: OrderRepository, method: str, times: int, *, after_the_write: bool = False
    ) -> None:
        self._repository, self._method, self._times, self._after = repository, method, times, after_the_write

    def __getattr__(self, name):
        real = getattr(self._repository, name)
        if name != self._method:
            return real

        async def flaky(*arguments, **options):
            if self._times <= 0:
                return await real(*arguments, **options)
            self._times -= 1
            if self._after:
                await real(*arguments, **options)
            raise DatabaseUnavailable

        return flaky


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(step_runner, "DATABASE_BACKOFF", timedelta(milliseconds=5))


@pytest.mark.parametrize("times", [1, 5])
async def test_a_short_database_outage_after_the_call_does_not_repeat_the_call(driver, quick, times):
    order_id, call = await driver.carry_to(State.APPROVED), ScriptedCall()
    repository = Flaky(driver.repository, "complete_step", times)
    result, _ = await run(repository, request(order_id, Step.CHARGE), call)
    assert (result.status, len(call.calls)) == (StepStatus.DONE, 1)
    assert await driver.attempts(order_id, Step.CHARGE) == [("charge", 1, "ok")]


@pytest.mark.parametrize(
    ("step", "state"),
    [(Step.RECEIVE, State.RECEIVED), (Step.CHARGE, State.APPROVED), (Step.REFUND, State.CHARGED)],
)
async def test_a_write_whose_response_was_lost_is_not_repeated(driver, quick, step, state):
    order_id, call = await driver.carry_to(state), ScriptedCall()
    if step is Step.REFUND:
        await driver.abort(order_id)
    repository = Flaky(driver.repository, "complete_step", 1, after_the_write=True)
    result, _ = await run(
        repository, request(order_id, step, within=None if step is Step.REFUND else LATER), call
    )
    assert result.status is StepStatus.DONE
    assert (await driver.attempts(order_id, step)).count((step.value, 1, "ok")) == 1
    assert (await driver.repository.snapshot(order_id)) is not None


async def test_after_a_longer_outage_the_next_run_records_the_attempt_as_lost(driver, quick):
    order_id, call = await driver.carry_to(State.APPROVED), ScriptedCall()
    with pytest.raises(DatabaseUnavailable):
        await run(Flaky(driver.repository, "complete_step", 99), request(order_id, Step.CHARGE), call)
    result, _ = await run(driver.repository, request(order_id, Step.CHARGE), call)
    assert (result.status, result.attempts, len(call.calls)) == (StepStatus.DONE, 2, 2)
    assert await driver.attempts(order_id, Step.CHARGE) == [("charge", 1, "lost"), ("charge", 2, "ok")]


@pytest.mark.parametrize("method", ["start_next_attempt", "snapshot"])
async def test_without_a_database_no_call_is_made(driver, method):
    order_id, call = await driver.open(), ScriptedCall()
    within = LATER if method == "start_next_attempt" else timedelta(0)
    with pytest.raises(DatabaseUnavailable):
        await run(Flaky(driver.repository, method, 1), request(order_id, within=within), call)
    assert call.calls == []


async def test_the_next_worker_continues_the_attempt_numbers(driver, pool):
    order_id = await driver.open()
    attempt = await OrderRepository(pool, "worker-a", TEMPORAL).start_next_attempt(order_id, Step.RECEIVE)
    await OrderRepository(pool, "worker-a", TEMPORAL).end_attempt(
        order_id, Step.RECEIVE, failed(attempt.number)
    )
    result, _ = await run(OrderRepository(pool, "worker-b", TEMPORAL), request(order_id), ScriptedCall())
    assert result.attempts == 2
    assert [event["worker"] for event in await driver.events(order_id, "attempt")] == ["worker-a", "worker-b"]


# --- A single attempt per execution -----------------------------------------------------------------


def single(order_id: str, step: Step = Step.RECEIVE, **options) -> StepRequest:
    return replace(request(order_id, step, **options), single_attempt=True)


async def test_a_single_attempt_that_fails_fails_the_activity_with_the_gateways_error(driver):
    order_id, call = await driver.open(), ScriptedCall(GatewayError("no stock system"))
    with pytest.raises(ApplicationError) as failure:
        await run(driver.repository, single(order_id), call)
    assert (failure.value.message, failure.value.type) == ("no stock system", "GatewayError")
    assert not failure.value.non_retryable
    assert failure.value.next_retry_delay == timedelta(seconds=SIMULATED_CALLS.first_backoff)
    result, heartbeats = await run(driver.repository, single(order_id), call)
    assert (result.status, result.attempts, heartbeats) == (StepStatus.DONE, 2, [])
    assert await driver.attempts(order_id) == [("receive", 1, "error"), ("receive", 2, "ok")]


async def test_a_single_attempt_that_times_out_has_a_type_of_its_own(driver):
    order_id, call = await driver.open(), ScriptedCall(300.0)
    with pytest.raises(ApplicationError) as failure:
        await run(driver.repository, single(order_id), call)
    assert (failure.value.message, failure.value.type) == ("no response within 200 ms", "GatewayTimeout")
    assert failure.value.next_retry_delay == step_runner.HAND_OVER_DELAY
    assert await driver.attempts(order_id) == [("receive", 1, "timeout")]


async def test_a_single_attempt_of_a_compensation_that_is_declined_is_retried_by_temporal(driver):
    order_id = await driver.carry_to(State.PREPARED)
    await driver.abort(order_id)
    call = ScriptedCall(GatewayDeclined("not now"))
    with pytest.raises(ApplicationError) as failure:
        await run(driver.repository, single(order_id, Step.RECALL, within=None), call)
    assert (failure.value.message, failure.value.type) == ("not now", "GatewayDeclined")
    assert not failure.value.non_retryable


async def test_a_single_attempt_that_is_declined_ends_the_step(driver):
    order_id, call = await driver.open(), ScriptedCall(GatewayDeclined("never"))
    result, _ = await run(driver.repository, single(order_id), call)
    assert (result.status, result.message) == (StepStatus.DECLINED, "never")


async def test_a_retry_of_a_stored_single_attempt_makes_no_call(driver):
    # Temporal's timeout ended the first execution before its response arrived.
    order_id = await driver.open()
    await run(driver.repository, single(order_id), ScriptedCall())
    again = ScriptedCall()
    result, _ = await run(driver.repository, single(order_id), again)
    assert (result.status, again.calls) == (StepStatus.DONE, [])
