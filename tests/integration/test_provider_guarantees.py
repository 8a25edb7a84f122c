"""What happens where a provider lacks a guarantee of the table in docs/reference/gateways.md.

Each test fails without the substitute. The last one has a provider that gives every guarantee.
"""

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest
from temporalio.testing import ActivityEnvironment

from db.domain import Reason, State, Step
from db.maintenance.audit import audit_database
from orchestrator.activities.payment import PaymentActivities
from orchestrator.activities.shipping import ShippingActivities
from orchestrator.activities.step_runner import StepRunner
from orchestrator.errors import GatewayDeclined, GatewayError
from orchestrator.gateways.protocols import Gateways, Guarantees, Payment, RefundOutcome
from orchestrator.messages.activities import StepResult, StepStatus
from tests.integration.test_step_runner import request
from tests.orders import OTHER_ADDRESS, new_order
from tests.shop import simulated_gateways


class WithoutKeys:
    """A provider of which every call takes effect, and whose first response is lost."""

    guarantees = Guarantees(idempotency_key=False)

    def __init__(self) -> None:
        self.effects = 0

    async def charge(self, *_: object) -> str:
        self.effects += 1
        if self.effects == 1:
            raise GatewayError("the response was lost")
        return "TRK-1"

    pack = dispatch = charge


class WithoutVoid:
    """A provider whose calls take effect later, and whose compensations have no effect on a later call."""

    IN_FLIGHT_SECONDS = 0.4

    guarantees = Guarantees(void=False, in_flight_seconds=IN_FLIGHT_SECONDS)

    def __init__(self) -> None:
        self.is_in_effect = False

    async def charge(self, *_: object) -> None:
        await asyncio.sleep(self.IN_FLIGHT_SECONDS / 2)
        self.is_in_effect = True

    async def refund(self, *_: object) -> RefundOutcome:
        self.is_in_effect = False
        return RefundOutcome.REFUNDED

    pack = dispatch = charge
    unpack = cancel_shipment = refund


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


async def run_step(repository, gateways: Gateways, order_id: str, step: Step) -> StepResult:
    runner = StepRunner(repository)
    payments, shipping = PaymentActivities(runner, gateways.payments), ShippingActivities(runner, gateways)
    activities = {
        Step.CHARGE: payments.charge,
        Step.PREPARE: shipping.prepare,
        Step.DISPATCH: shipping.dispatch,
        Step.REFUND: payments.refund,
        Step.RECALL: shipping.recall,
    }
    within = {"within": None} if step in (Step.REFUND, Step.RECALL) else {}
    return await in_activity(lambda: activities[step](request(order_id, step, **within)))


@pytest.mark.parametrize(
    ("role", "step"),
    [("payments", Step.CHARGE), ("warehouse", Step.PREPARE), ("carrier", Step.DISPATCH)],
)
async def test_without_an_idempotency_key_a_call_with_an_unknown_result_is_not_repeated(
    driver, repository, gateways, role, step
):
    order_id = await driver.carry_to_due(step)
    provider = WithoutKeys()
    result = await run_step(repository, replace(gateways, **{role: provider}), order_id, step)
    assert result.status is StepStatus.DECLINED
    assert "no idempotency key" in result.message
    assert provider.effects == 1


@pytest.mark.parametrize(
    ("role", "step", "call", "compensation"),
    [
        ("payments", Step.CHARGE, "charge", Step.REFUND),
        ("warehouse", Step.PREPARE, "pack", Step.RECALL),
        ("carrier", Step.DISPATCH, "dispatch", Step.RECALL),
    ],
)
async def test_without_void_a_compensation_waits_until_no_call_can_take_effect(
    driver, repository, gateways, role, step, call, compensation
):
    order_id = await driver.carry_to_due(step)
    provider = WithoutVoid()
    attempt = await repository.start_next_attempt(order_id, step)
    assert attempt.since_abort is None
    late = asyncio.create_task(getattr(provider, call)())
    await driver.abort(order_id, Reason.DEADLINE)
    result = await run_step(repository, replace(gateways, **{role: provider}), order_id, compensation)
    await late
    assert result.status is StepStatus.DONE
    assert not provider.is_in_effect


async def test_without_replaceable_labels_each_address_is_a_shipment(driver, repository, gateways, pool):
    order = new_order(run_id="relabel")
    await driver.carry_to(State.PREPARED, order)
    carrier = WithoutRelabelling(gateways.carrier)
    # The first label is printed, and its response is lost.
    attempt = await repository.start_next_attempt(order.order_id, Step.DISPATCH)
    await carrier.dispatch(f"{order.order_id}-label-1", order.order_id, attempt.address, 1)
    await repository.change_address(order.order_id, OTHER_ADDRESS, "customer")
    result = await run_step(repository, replace(gateways, carrier=carrier), order.order_id, Step.DISPATCH)
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


async def test_without_replaceable_labels_the_shipment_of_each_address_is_recalled(
    driver, repository, gateways, pool
):
    order_id = await driver.carry_to(State.PREPARED)
    carrier = WithoutRelabelling(gateways.carrier)
    attempt = await repository.start_next_attempt(order_id, Step.DISPATCH)
    await carrier.dispatch(f"{order_id}-label-1", order_id, attempt.address, 1)
    await repository.change_address(order_id, OTHER_ADDRESS, "customer")
    await driver.abort(order_id, Reason.DEADLINE)
    await run_step(repository, replace(gateways, carrier=carrier), order_id, Step.RECALL)
    rows = await pool.fetch_all(
        "select recalled_at from provider.parcels where order_id = %(id)s", {"id": order_id}
    )
    assert len(rows) == 2
    assert all(row["recalled_at"] for row in rows)


async def test_a_provider_with_every_guarantee_is_not_waited_for(driver, repository, gateways):
    order = new_order()
    await driver.carry_to(State.CHARGED, order)
    await gateways.payments.charge(Payment(order.payment_id, order.order_id, order.amount_cents))
    await driver.abort(order.order_id, Reason.DEADLINE)
    attempt = await repository.start_next_attempt(order.order_id, Step.REFUND)
    assert timedelta(0) <= attempt.since_abort < timedelta(minutes=1)
    result = await run_step(repository, gateways, order.order_id, Step.REFUND)
    # The attempt that was started above is lost.
    assert (result.status, result.attempts) == (StepStatus.DONE, 2)
    with pytest.raises(GatewayDeclined):
        await gateways.payments.charge(Payment(order.payment_id, "other", order.amount_cents))
