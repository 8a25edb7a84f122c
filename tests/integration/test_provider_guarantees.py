"""What happens where a provider lacks a guarantee of the table in docs/reference/gateways.md.

Each test has a twin with a provider that gives the guarantee, or fails without the substitute.
"""

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest
from temporalio.testing import ActivityEnvironment

from db.audit import audit_database
from db.domain import Reason, State, Step
from orchestrator.activities.payment import PaymentActivities
from orchestrator.activities.shipping import ShippingActivities
from orchestrator.activities.step_runner import StepRunner
from orchestrator.errors import GatewayDeclined, GatewayError
from orchestrator.gateways.protocols import Gateways, Guarantees, Payment, RefundOutcome
from orchestrator.gateways.simulated import simulated_gateways
from orchestrator.messages import StepStatus
from tests.integration.test_step_runner import request
from tests.orders import OTHER_ADDRESS, new_order, provider_balance


class WithoutKeys:
    """A payment provider that charges at every call, and loses its first response."""

    guarantees = Guarantees(idempotency_key=False)

    def __init__(self, payments) -> None:
        self._payments = payments
        self.calls = 0

    async def charge(self, payment: Payment) -> None:
        self.calls += 1
        await self._payments.charge(replace(payment, payment_id=f"{payment.payment_id}-{self.calls}"))
        if self.calls == 1:
            raise GatewayError("the response was lost")


class WithoutVoid:
    """A payment provider whose charge takes effect later, and that forgets what it refunded before."""

    IN_FLIGHT_SECONDS = 0.4

    guarantees = Guarantees(void=False, in_flight_seconds=IN_FLIGHT_SECONDS)

    def __init__(self, payments) -> None:
        self._payments = payments
        self.arrived = asyncio.Event()

    async def charge(self, payment: Payment) -> None:
        await asyncio.sleep(self.IN_FLIGHT_SECONDS / 2)
        await self._payments.charge(payment)
        self.arrived.set()

    async def refund(self, payment: Payment):
        if not self.arrived.is_set():
            return RefundOutcome.VOIDED
        return await self._payments.refund(payment)


class WithoutRelabelling:
    """A carrier that keeps the first label of a shipment."""

    guarantees = Guarantees(replaceable_label=False)

    def __init__(self, carrier) -> None:
        self._carrier = carrier

    async def dispatch(self, shipment_key, order_id, address, label_version):
        return await self._carrier.dispatch(shipment_key, order_id, address, 1)

    async def cancel_shipment(self, shipment_key, order_id):
        await self._carrier.cancel_shipment(shipment_key, order_id)


@pytest.fixture
def gateways(pool) -> Gateways:
    return simulated_gateways(pool)


async def in_activity(work):
    """Run a step as a regular activity would."""

    async def activity():
        return await work()

    return await ActivityEnvironment().run(activity)


async def test_without_an_idempotency_key_a_charge_with_an_unknown_result_is_not_repeated(
    driver, repository, gateways, pool
):
    order = new_order()
    await driver.carry_to(State.APPROVED, order)
    provider = WithoutKeys(gateways.payments)
    activities = PaymentActivities(StepRunner(repository), provider)
    result = await in_activity(lambda: activities.charge(request(order.order_id, Step.CHARGE)))
    assert result.status is StepStatus.DECLINED
    assert "no idempotency key" in result.message
    assert provider.calls == 1
    assert await provider_balance(pool, f"{order.payment_id}-2") == (0, 0)


async def test_without_void_the_refund_waits_until_no_charge_can_take_effect(
    driver, repository, gateways, pool
):
    order = new_order()
    await driver.carry_to(State.APPROVED, order)
    provider = WithoutVoid(gateways.payments)
    attempt = await repository.start_next_attempt(order.order_id, Step.CHARGE)
    assert attempt.since_abort is None
    late = asyncio.create_task(provider.charge(Payment(order.payment_id, order.order_id, order.amount_cents)))
    await driver.abort(order.order_id, Reason.DEADLINE)
    activities = PaymentActivities(StepRunner(repository), provider)
    refund = request(order.order_id, Step.REFUND, within=None)
    result = await in_activity(lambda: activities.refund(refund))
    await late
    assert result.status is StepStatus.DONE
    charged, refunded = await provider_balance(pool, order.payment_id)
    assert charged == refunded == order.amount_cents


async def test_without_replaceable_labels_each_address_is_a_shipment(driver, repository, gateways, pool):
    order = new_order(run_id="relabel")
    await driver.carry_to(State.PREPARED, order)
    carrier = WithoutRelabelling(gateways.carrier)
    activities = ShippingActivities(StepRunner(repository), replace(gateways, carrier=carrier))
    # The first label is printed, and its response is lost.
    attempt = await repository.start_next_attempt(order.order_id, Step.DISPATCH)
    await carrier.dispatch(f"{order.order_id}-label-1", order.order_id, attempt.address, 1)
    await repository.change_address(order.order_id, OTHER_ADDRESS, "customer")
    result = await in_activity(lambda: activities.dispatch(request(order.order_id, Step.DISPATCH)))
    assert result.status is StepStatus.DONE
    rows = await pool.fetch_all(
        "select label_address, recalled_at is null as is_sent from provider.parcels where order_id = %(id)s",
        {"id": order.order_id},
    )
    assert [row["label_address"] for row in rows if row["is_sent"]] == [OTHER_ADDRESS.to_json()]
    assert len(rows) == 2
    await repository.finish(order.order_id, State.COMPLETED)
    violations = (await audit_database(pool, "relabel")).violations
    assert [each for each in violations if "label" in each.finding or "dispatch" in each.finding] == []


async def test_a_provider_with_every_guarantee_is_not_waited_for(driver, repository, gateways, pool):
    order = new_order()
    await driver.carry_to(State.CHARGED, order)
    await gateways.payments.charge(Payment(order.payment_id, order.order_id, order.amount_cents))
    await driver.abort(order.order_id, Reason.DEADLINE)
    attempt = await repository.start_next_attempt(order.order_id, Step.REFUND)
    assert timedelta(0) <= attempt.since_abort < timedelta(seconds=5)
    activities = PaymentActivities(StepRunner(repository), gateways.payments)
    refund = request(order.order_id, Step.REFUND, within=None)
    result = await in_activity(lambda: activities.refund(refund))
    # The attempt that was started above is lost.
    assert (result.status, result.attempts) == (StepStatus.DONE, 2)
    with pytest.raises(GatewayDeclined):
        await gateways.payments.charge(Payment(order.payment_id, "other", order.amount_cents))
