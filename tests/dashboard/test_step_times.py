"""When finished orders completed each step, read from their events."""

import pytest

from dashboard.view_models.miss_probability import MissProbability
from db.domain import State, Step
from db.read_models import step_times
from tests.dashboard.conftest import query, reader_of
from tests.orders import OrderDriver, failed

STEPS = ("receive", "validate", "review", "charge", "prepare", "dispatch")


@pytest.fixture
def newest(order_database_url):
    """The row of one order."""

    def row(order_id: str) -> dict:
        reader = reader_of(order_database_url)
        try:
            return next(each for each in step_times.newest(reader) if each["order_id"] == order_id)
        finally:
            reader.close()

    return row


async def fail(driver: OrderDriver, order_id: str, step: Step, times: int) -> None:
    for _ in range(times):
        attempt = await driver.repository.start_next_attempt(order_id, step)
        await driver.repository.end_attempt(order_id, step, failed(attempt.number), is_retried=True)


async def test_the_steps_of_a_completed_order_end_one_after_another(driver: OrderDriver, newest):
    row = newest(await driver.carry_to(State.COMPLETED))
    ends = [row[f"{step}_end_ms"] for step in STEPS]
    assert None not in ends
    assert ends == sorted(ends)
    assert ends[-1] <= row["completion_ms"]
    assert row["aborted_ms"] is None
    assert sum(row.get(f"{step}_failures", 0) for step in STEPS) == 0


async def test_an_aborted_order_has_no_end_of_later_steps(driver: OrderDriver, newest):
    order_id = await driver.carry_to(State.CHARGED)
    await fail(driver, order_id, Step.PREPARE, 3)
    await driver.abort(order_id)
    await driver.compensate(order_id)
    await driver.repository.finish(order_id, State.CANCELLED)
    row = newest(order_id)
    assert (row["prepare_end_ms"], row["dispatch_end_ms"]) == (None, None)
    assert row["charge_end_ms"] <= row["aborted_ms"] <= row["completion_ms"]
    assert row["prepare_failures"] == 3


async def test_failed_attempts_without_an_event_are_counted(driver: OrderDriver, newest, order_database_url):
    order_id = await driver.carry_to(State.APPROVED)
    await fail(driver, order_id, Step.CHARGE, 40)
    for step in (Step.CHARGE, Step.PREPARE, Step.DISPATCH):
        assert await driver.step(order_id, step)
    await driver.repository.finish(order_id, State.COMPLETED)
    (events,) = query(
        order_database_url,
        "select count(*) as n from events where order_id = %(id)s and step = 'charge' and outcome = 'error'",
        {"id": order_id},
    )
    assert events["n"] < 40
    assert newest(order_id)["charge_failures"] == 40


async def test_an_order_whose_events_were_deleted_is_no_reference(
    driver: OrderDriver, newest, order_database_url
):
    order_id = await driver.carry_to(State.COMPLETED)
    query(order_database_url, "delete from events where order_id = %(id)s returning 1 as n", {"id": order_id})
    row = newest(order_id)
    assert {row[f"{step}_end_ms"] for step in STEPS} == {None}
    assert row["charge_failures"] == 0
    order = {
        "elapsed_ms": 10,
        "limit_ms": 15_000,
        "current_step": "charge",
        "abort_reason": None,
        "review": "auto",
    }
    assert MissProbability.of([row] * 50).of_order(order) is None
