"""StepRunner: the delays, events and counts of a step that fails for long."""

from datetime import timedelta

import pytest
from temporalio.exceptions import ApplicationError

from db.domain import QUICK_ATTEMPTS, State, Step
from db.maintenance.audit import audit_database
from db.read_models import order_details
from orchestrator.activities import step_runner
from orchestrator.deadlines import MAX_BACKOFF
from orchestrator.errors import GatewayError
from orchestrator.gateways.call_guard import StepCalls
from orchestrator.messages.activities import StepStatus
from orchestrator.settings.gateways import SIMULATED_CALLS
from tests.integration.test_step_runner import ScriptedCall, request, run


@pytest.fixture
def short_attempts(monkeypatch):
    """Attempts time out at once, and quick attempts follow each other without a delay."""
    short = SIMULATED_CALLS.model_copy(update={"timeout": 0.005, "first_backoff": 0.0, "max_backoff": 0.0})
    monkeypatch.setattr(step_runner, "SIMULATED_STEP", StepCalls(short))
    monkeypatch.setattr(step_runner, "MAX_QUICK_BACKOFF", timedelta(0))


async def fail(repository, step_request, call):
    """Run a step that fails; return the delay after which Temporal retries it."""
    with pytest.raises(ApplicationError) as retried:
        await run(repository, step_request, call)
    assert not retried.value.non_retryable
    return retried.value.next_retry_delay


async def test_after_its_quick_attempts_a_step_makes_one_attempt_per_execution(driver, short_attempts):
    order_id = await driver.carry_to(State.CHARGED)
    await driver.abort(order_id)
    call = ScriptedCall(*[GatewayError("no")] * 1000)
    refund = request(order_id, Step.REFUND, within=None)
    delays = [await fail(driver.repository, refund, call) for _ in range(10)]
    assert len(call.calls) == QUICK_ATTEMPTS + 9
    for retries, delay in enumerate(delays):
        longest = min(timedelta(milliseconds=500) * 2**retries, MAX_BACKOFF)
        assert longest / 2 <= delay <= longest


async def test_a_refund_that_fails_for_days_has_few_events_and_exact_counts(driver, short_attempts):
    order_id = await driver.carry_to(State.CHARGED)
    await driver.abort(order_id)
    call = ScriptedCall(*[GatewayError("no"), 300.0] * 150)
    refund = request(order_id, Step.REFUND, within=None)
    while len(call.calls) < 300:
        await fail(driver.repository, refund, call)
    stored = await order_details.order(driver.pool, order_id)
    assert stored.retries[Step.REFUND] == 300
    result, _ = await run(driver.repository, refund, ScriptedCall())
    assert (result.status, result.attempts) == (StepStatus.DONE, 301)
    numbers = [number for _, number, _ in await driver.attempts(order_id, Step.REFUND)]
    assert numbers == [*range(1, 33), 64, 128, 256, 301]
    await driver.repository.finish(order_id, State.CANCELLED)
    row = await driver.row(order_id)
    # The forward steps of a charged order took one attempt each.
    assert (row["attempts"], row["failed_attempts"], row["timed_out_attempts"]) == (304, 300, 150)
    assert (await order_details.order(driver.pool, order_id)).retries == {Step.REFUND: 300}
    assert 7 not in [found.invariant for found in await violations(driver, order_id)]
    await driver.pool.execute(
        "delete from events where order_id = %(id)s and attempt = 128", {"id": order_id}
    )
    assert 7 in [found.invariant for found in await violations(driver, order_id)]


async def violations(driver, order_id):
    audited = await audit_database(driver.pool)
    return [found for found in audited.violations if found.order_id == order_id]


async def test_lost_attempts_of_a_crashing_gateway_call_have_few_events_too(driver, short_attempts):
    order_id = await driver.carry_to(State.CHARGED)
    await driver.abort(order_id)
    for _ in range(100):
        with pytest.raises(ZeroDivisionError):
            await run(
                driver.repository,
                request(order_id, Step.REFUND, within=None),
                ScriptedCall(ZeroDivisionError("bug")),
            )
    await run(driver.repository, request(order_id, Step.REFUND, within=None), ScriptedCall())
    assert len(await driver.attempts(order_id, Step.REFUND)) == 32 + 2
    await driver.repository.finish(order_id, State.CANCELLED)
    row = await driver.row(order_id)
    assert (row["attempts"], row["failed_attempts"], row["timed_out_attempts"]) == (104, 100, 0)


async def test_a_forward_step_with_a_long_limit_backs_off_too(driver, short_attempts):
    order_id, call = await driver.open(), ScriptedCall(*[GatewayError("no")] * 1000)
    hour = request(order_id, within=timedelta(hours=1))
    delays = [await fail(driver.repository, hour, call) for _ in range(10)]
    assert delays[-1] >= MAX_BACKOFF / 2
    soon = request(order_id, within=timedelta(seconds=4))
    assert await fail(driver.repository, soon, call) <= timedelta(seconds=1)
