"""Which orders in flight count as active for admission control and metrics."""

from db.domain import QUICK_ATTEMPTS, ExecutionMode, State, Step
from db.read_models import order_metrics
from tests.orders import failed, new_order

HOUR_SECONDS = 3600.0


async def counts(driver):
    sample = await order_metrics.load_sample(driver.pool, [], 5.0, HOUR_SECONDS)
    open_orders = await order_metrics.open_orders(driver.pool)
    assert sample.active == open_orders.active
    return open_orders.orders, sample.active, open_orders.compensation_delayed


async def test_orders_in_review_and_between_attempts_of_a_compensation_are_not_active(driver):
    assert await counts(driver) == (0, 0, 0)
    await driver.open()
    assert await counts(driver) == (1, 1, 0)
    await driver.carry_to(State.IN_REVIEW)
    assert await counts(driver) == (2, 1, 0)
    aborted = await driver.carry_to(State.CHARGED)
    assert await counts(driver) == (3, 2, 0)
    await driver.abort(aborted)
    ended = None
    for number in range(1, QUICK_ATTEMPTS + 2):
        assert await counts(driver) == (3, 2, 0)
        attempt = await driver.repository.start_next_attempt(aborted, Step.REFUND, ended)
        assert attempt.number == number
        ended = failed(number)
    assert await counts(driver) == (3, 1, 1)


async def test_an_order_that_waits_is_seen_in_the_time_since_its_last_event(driver):
    await driver.pool.execute("update orders set last_event_at = last_event_at - interval '1 minute'")
    sample = await order_metrics.load_sample(driver.pool, [], 5.0, HOUR_SECONDS)
    assert sample.idle_seconds > 55
    assert sample.quiet_seconds > 55


async def test_an_order_accepted_before_the_end_of_an_outage_shows_no_queueing_time(driver):
    await driver.open()
    await driver.pool.execute("update orders set accepted_at = accepted_at - interval '1 minute'")
    sample = await order_metrics.load_sample(driver.pool, [], 5.0, 30.0)
    assert sample.active
    assert sample.idle_seconds is None


async def test_the_queueing_time_leaves_out_the_delays_of_temporals_retries(driver):
    async def waiting_ms(execution):
        await driver.carry_to(State.COMPLETED, new_order(execution=execution))
        return (await order_metrics.load_sample(driver.pool, [], 5.0, HOUR_SECONDS)).waiting_ms

    assert await waiting_ms(ExecutionMode.VISIBLE) is None
    assert await waiting_ms(ExecutionMode.FAST) is not None
