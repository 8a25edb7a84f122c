"""The activities on PostgreSQL and the simulated gateways, under fault profiles."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from db.database import Database
from db.domain import Address, Reason, State, Step
from db.orders import OrderRepository
from orchestrator.activities.order import OrderActivities
from orchestrator.activities.payment import PaymentActivities
from orchestrator.activities.shipping import ShippingActivities
from orchestrator.activities.step_runner import StepRunner
from orchestrator.gateways.fault_injection import (
    FaultInjector,
    FaultProfile,
    Rates,
    named_profile,
)
from orchestrator.gateways.protocols import Payment
from orchestrator.messages.activities import FinishRequest, StepRequest, StepStatus
from tests.orders import OTHER_ADDRESS, new_order, provider_balance
from tests.shop import simulated_gateways

LATER = timedelta(seconds=60)


def request(
    order_id: str, step: Step = Step.RECEIVE, *, within: timedelta | None = LATER, time_budget=None
) -> StepRequest:
    not_after = None if within is None else datetime.now(UTC) + within
    return StepRequest(order_id, step, not_after, time_budget)


class AllActivities:
    """The activities on PostgreSQL and the simulated gateways, with a fault profile."""

    def __init__(self, pool: Database, repository: OrderRepository, profile: FaultProfile) -> None:
        self.gateways = simulated_gateways(pool)
        step_runner = StepRunner(repository, FaultInjector(profile))
        self.orders = OrderActivities(repository, step_runner, self.gateways)
        self.payments = PaymentActivities(step_runner, self.gateways.payments)
        self.shipping = ShippingActivities(step_runner, self.gateways)
        self.activities = {
            Step.RECEIVE: self.orders.receive,
            Step.VALIDATE: self.orders.validate,
            Step.CHARGE: self.payments.charge,
            Step.PREPARE: self.shipping.prepare,
            Step.DISPATCH: self.shipping.dispatch,
            Step.REFUND: self.payments.refund,
            Step.RECALL: self.shipping.recall,
        }

    async def run(self, order_id: str, step: Step, **options):
        within = None if step in (Step.REFUND, Step.RECALL) else LATER
        return await ActivityEnvironment().run(
            self.activities[step], request(order_id, step, within=within, **options)
        )


@pytest.fixture(scope="module")
def faultless(pool, repository):
    return AllActivities(pool, repository, named_profile("none"))


PATH = {
    Step.RECEIVE: State.RECEIVED,
    Step.VALIDATE: State.IN_REVIEW,
    Step.CHARGE: State.CHARGED,
    Step.PREPARE: State.PREPARED,
    Step.DISPATCH: State.DISPATCHED,
}


async def run_forward_steps(driver, activities, order) -> None:
    await driver.open(order)
    for step, state in PATH.items():
        assert (await activities.run(order.order_id, step)).status is StepStatus.DONE
        assert (await driver.row(order.order_id))["state"] == state
        if step is Step.VALIDATE:
            await driver.repository.approve(order.order_id, "reviewer", request_id="a1")


@pytest.mark.parametrize("profile", ["none", "assignment", "lossy"])
async def test_an_order_is_charged_and_dispatched_once_under_every_fault_profile(
    driver, pool, repository, profile
):
    order = new_order()
    activities = AllActivities(pool, repository, named_profile(profile, seed=4))
    await run_forward_steps(driver, activities, order)
    await activities.orders.finish(FinishRequest(order.order_id, State.COMPLETED))
    assert await provider_balance(pool, order.payment_id) == (4200, 0)
    parcels = await pool.fetch_all(
        "select * from provider.parcels where order_id = %(id)s", {"id": order.order_id}
    )
    assert [(parcel["label_version"], parcel["recalled_at"]) for parcel in parcels] == [(1, None)]
    numbers: dict[str, list[int]] = {}
    for step, number, _ in await driver.attempts(order.order_id):
        numbers.setdefault(step, []).append(number)
    assert all(of_step == list(range(1, len(of_step) + 1)) for of_step in numbers.values())


@pytest.mark.parametrize("profile", ["none", "assignment", "lossy"])
async def test_an_aborted_order_is_compensated_under_every_fault_profile(driver, pool, repository, profile):
    order = new_order()
    await driver.carry_to(State.PREPARED, order)
    activities = AllActivities(pool, repository, named_profile(profile, seed=8))
    await activities.gateways.payments.charge(Payment(order.payment_id, order.order_id, 4200))
    await activities.gateways.warehouse.pack(order.order_id, order.order_id, order.items)
    await driver.abort(order.order_id)
    results = await asyncio.gather(
        *(activities.run(order.order_id, step) for step in (Step.REFUND, Step.RECALL))
    )
    assert {result.status for result in results} == {StepStatus.DONE}
    await activities.orders.finish(FinishRequest(order.order_id, State.CANCELLED))
    assert await provider_balance(pool, order.payment_id) == (4200, 4200)
    assert (await driver.row(order.order_id))["state"] == "cancelled"


async def test_an_address_change_during_dispatch_gets_a_new_label(driver, pool, faultless, monkeypatch):
    order_id = await driver.carry_to(State.PREPARED)
    real_dispatch, labels = faultless.gateways.carrier.dispatch, []

    async def dispatch(key, order, address, version):
        if not labels:
            await driver.change_address(order_id)
        labels.append((address, version))
        return await real_dispatch(key, order, address, version)

    monkeypatch.setattr(faultless.gateways.carrier, "dispatch", dispatch)
    assert (await faultless.run(order_id, Step.DISPATCH)).status is StepStatus.DONE
    assert [version for _, version in labels] == [1, 2]
    row = await pool.fetch_one("select * from provider.parcels where order_id = %(id)s", {"id": order_id})
    assert (row["label_version"], row["label_address"]["street"]) == (2, OTHER_ADDRESS.street)


async def test_an_order_with_the_payment_id_of_another_order_is_declined(driver, faultless):
    first = new_order()
    second = new_order(payment_id=first.payment_id)
    for order in (first, second):
        await driver.open(order)
        await driver.step(order.order_id, Step.RECEIVE)
    assert (await faultless.run(first.order_id, Step.VALIDATE)).status is StepStatus.DONE
    result = await faultless.run(second.order_id, Step.VALIDATE)
    assert (result.status, result.message) == (StepStatus.DECLINED, "the payment id belongs to another order")


async def test_the_refund_of_an_order_leaves_the_payment_of_another_order_unchanged(driver, faultless, pool):
    # An order that is terminated and reconciled before its validation.
    first = new_order()
    second = new_order(payment_id=first.payment_id)
    for order in (first, second):
        await driver.open(order)
    await driver.abort(second.order_id, Reason.TERMINATED)
    assert (await faultless.run(second.order_id, Step.REFUND)).status is StepStatus.DONE
    await faultless.gateways.payments.charge(Payment(first.payment_id, first.order_id, 4200))
    assert await provider_balance(pool, first.payment_id) == (4200, 0)


async def test_an_address_without_delivery_is_declined(driver, faultless):
    order_id = await driver.open(new_order(initial_address=Address("1 Nowhere", "Void", "XX", "00000")))
    await driver.step(order_id, Step.RECEIVE)
    assert (await faultless.run(order_id, Step.VALIDATE)).status is StepStatus.DECLINED


async def test_a_declined_step_is_not_repeated(driver, pool, repository):
    activities = AllActivities(pool, repository, FaultProfile("custom", 1, Rates(decline=1.0), {}))
    result = await activities.run(await driver.open(), Step.RECEIVE)
    assert (result.status, result.attempts) == (StepStatus.DECLINED, 1)


async def test_an_order_that_exists_for_another_run_is_a_non_retryable_error(driver, faultless):
    order, now = new_order(), datetime.now(UTC)
    first = order.new_order("run-1", now)
    second = order.new_order("run-2", now)
    assert await faultless.orders.open(first)
    assert await faultless.orders.open(first)
    with pytest.raises(ApplicationError) as refused:
        await faultless.orders.open(second)
    assert (refused.value.type, refused.value.non_retryable) == ("DuplicateOrder", True)


async def test_finish_raises_when_the_order_is_not_ready_and_returns_a_stored_outcome(driver, faultless):
    order_id = await driver.carry_to(State.CHARGED)
    for outcome in (State.COMPLETED, State.CANCELLED):
        with pytest.raises(RuntimeError, match=f"cannot be {outcome}"):
            await faultless.orders.finish(FinishRequest(order_id, outcome))
    await driver.repository.abort(order_id, Reason.DEADLINE, "system")
    await driver.step(order_id, Step.REFUND, refund_outcome="refunded")
    first = await faultless.orders.finish(FinishRequest(order_id, State.FAILED))
    again = await faultless.orders.finish(FinishRequest(order_id, State.COMPLETED))
    assert first == again
    assert (first.outcome, first.reason) == (State.FAILED, Reason.DEADLINE)
