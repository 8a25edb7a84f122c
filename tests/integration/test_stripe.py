"""The payment gateway `stripe` against localstripe."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
import pytest_asyncio
from pydantic import SecretStr

from db.database import Database
from db.domain import Reason, Step
from orchestrator.activities.order import OrderActivities
from orchestrator.activities.payment import PaymentActivities
from orchestrator.activities.step_runner import StepRunner
from orchestrator.errors import GatewayDeclined, GatewayError, SettingsError
from orchestrator.gateways.protocols import Payment, PaymentProvider, RefundOutcome
from orchestrator.gateways.registry import open_gateways, provider
from orchestrator.messages.activities import AbortRequest
from orchestrator.settings import Settings
from tests.fake_stripe import API_KEY, DECLINED_CARD, FakeStripe, fake_stripe
from tests.integration.test_provider_guarantees import in_activity
from tests.integration.test_step_runner import request
from tests.orders import new_order

# Stripe's SDK passes bodies to httpx in a deprecated way.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

pytest.importorskip("stripe")
pytest.importorskip("localstripe")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def fake() -> AsyncIterator[FakeStripe]:
    async with fake_stripe() as fake:
        yield fake


@pytest.fixture(autouse=True)
def healthy(fake: FakeStripe) -> None:
    fake.lost_share = 0.0
    fake.holds.clear()


def stripe_settings(fake_url: str = "http://127.0.0.1:1", **changes: object) -> Settings:
    own = {"payment_gateway": "stripe", "stripe_api_key": SecretStr(API_KEY), "stripe_api_base": fake_url}
    return Settings.model_validate(own | changes)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def payments(fake: FakeStripe, pool: Database) -> AsyncIterator[PaymentProvider]:
    async with open_gateways(stripe_settings(fake.url), pool) as gateways:
        yield gateways.payments


async def new_payment(fake: FakeStripe, payments: PaymentProvider, *card: str) -> Payment:
    order_id = new_order().order_id
    method = await fake.payment_method(*card)
    payment = Payment(f"pay-{order_id}", order_id, 4_200, "EUR", method)
    reference = await payments.create(payment)
    return Payment(f"pay-{order_id}", order_id, 4_200, "EUR", method, reference)


async def ledger(payments: PaymentProvider, payment: Payment) -> list[str]:
    since = datetime.now(UTC) - timedelta(minutes=5)
    return [entry.kind async for entry in payments.ledger(since) if entry.order_id == payment.order_id]


async def test_a_repeated_charge_charges_once(fake, payments):
    payment = await new_payment(fake, payments)
    assert payment.reference.startswith("pi_")
    for _ in range(3):
        await payments.charge(payment)
    assert await ledger(payments, payment) == ["charge"]


async def test_a_charge_confirmed_with_an_expired_key_is_not_made_again(fake, payments):
    payment = await new_payment(fake, payments)
    await payments.charge(payment)
    fake._responses.clear()
    await payments.charge(payment)
    assert await ledger(payments, payment) == ["charge"]


async def test_a_declined_card_is_a_decline_with_the_message_of_the_bank(fake, payments):
    payment = await new_payment(fake, payments, DECLINED_CARD)
    with pytest.raises(GatewayDeclined, match="declined"):
        await payments.charge(payment)
    assert await payments.refund(payment) is RefundOutcome.VOIDED
    assert await ledger(payments, payment) == []


async def test_a_charge_is_refunded_once(fake, payments):
    payment = await new_payment(fake, payments)
    await payments.charge(payment)
    for _ in range(3):
        assert await payments.refund(payment) is RefundOutcome.REFUNDED
    assert sorted(await ledger(payments, payment)) == ["charge", "refund"]


async def test_a_late_charge_after_the_cancellation_fails_at_stripe(fake, payments):
    payment = await new_payment(fake, payments)
    fake.holds["confirm"] = asyncio.Event()
    late = asyncio.create_task(payments.charge(payment))
    assert await payments.refund(payment) is RefundOutcome.VOIDED
    fake.holds["confirm"].set()
    with pytest.raises(GatewayDeclined, match="canceled"):
        await late
    assert await ledger(payments, payment) == []


async def test_a_concurrent_charge_and_refund_leave_a_net_charge_of_zero(fake, payments):
    for _ in range(10):
        payment = await new_payment(fake, payments)
        results = await asyncio.gather(
            payments.charge(payment), payments.refund(payment), return_exceptions=True
        )
        entries = await ledger(payments, payment)
        assert entries in ([], ["charge", "refund"]), results
        assert results[1] is (RefundOutcome.REFUNDED if entries else RefundOutcome.VOIDED)


async def test_a_refund_without_a_reference_voids_the_intent_that_was_created(fake, payments):
    order_id = new_order().order_id
    payment = Payment(order_id, order_id, 4_200, "USD", await fake.payment_method())
    reference = await payments.create(payment)
    assert await payments.refund(payment) is RefundOutcome.VOIDED
    with pytest.raises(GatewayDeclined, match="canceled"):
        await payments.charge(Payment(order_id, order_id, 4_200, "USD", payment.method, reference))
    assert len([each for each in await fake.objects("payment_intents") if each["id"] == reference]) == 1


async def test_a_refund_of_a_payment_that_stripe_rejected_has_nothing_to_void(payments):
    order_id = new_order().order_id
    payment = Payment(order_id, order_id, 4_200, "USD", "pm_unknown")
    with pytest.raises(GatewayDeclined, match="Stripe rejected the payment: status 404"):
        await payments.create(payment)
    assert await payments.refund(payment) is RefundOutcome.VOIDED


async def test_an_order_that_ends_before_its_validation_needs_nothing_of_stripe(driver, repository, pool):
    order_id = await driver.open()
    await repository.start_next_attempt(order_id, Step.RECEIVE)
    async with open_gateways(stripe_settings(), pool) as gateways:
        activities = OrderActivities(repository, StepRunner(repository), gateways)
        decision = await activities.abort(AbortRequest(order_id, Reason.VALIDATION_FAILED, "test"))
    assert (decision.accepted, decision.compensations) == (True, [])


@pytest.mark.parametrize("is_stored", [True, False])
async def test_an_order_that_ends_before_its_charge_cancels_its_intent(
    fake, driver, repository, pool, is_stored
):
    order = new_order(payment_method=await fake.payment_method())
    await driver.open(order)
    await driver.step(order.order_id, Step.RECEIVE)
    async with open_gateways(stripe_settings(fake.url), pool) as gateways:
        runner = StepRunner(repository, calls=gateways.calls)
        activities = OrderActivities(repository, runner, gateways)
        if is_stored:
            await in_activity(lambda: activities.validate(request(order.order_id, Step.VALIDATE)))
        else:
            # The response to the creation is lost with its worker.
            await repository.start_next_attempt(order.order_id, Step.VALIDATE)
            await gateways.payments.create(
                Payment(order.payment_id, order.order_id, order.amount_cents, "USD", order.payment_method)
            )
        decision = await activities.abort(
            AbortRequest(order.order_id, Reason.CUSTOMER_CANCELLED, "customer", signal="cancel_order")
        )
        assert decision.compensations == [Step.REFUND]
        refund = request(order.order_id, Step.REFUND, within=None)
        await in_activity(lambda: PaymentActivities(runner, gateways.payments).refund(refund))
    found = [each for each in await fake.objects("payment_intents")
             if each["metadata"]["order_id"] == order.order_id]  # fmt: skip
    assert [each["status"] for each in found] == ["canceled"]
    assert (await driver.payment(order.order_id))["status"] == "voided"


async def test_lost_answers_are_retried_without_a_second_effect(fake, payments, monkeypatch):
    monkeypatch.setattr("tests.fake_stripe.HANG_SECONDS", 0.0)
    fake.lost_share = 0.5
    lost_before = fake.lost

    async def until_answered(call):
        for _ in range(50):
            try:
                return await call()
            except GatewayDeclined:
                raise
            except GatewayError:
                continue
        raise AssertionError("no answer")

    made = []
    for _ in range(8):
        order_id = new_order().order_id
        method = await fake.payment_method()
        plain = Payment(order_id, order_id, 900, "USD", method)
        reference = await until_answered(lambda plain=plain: payments.create(plain))
        payment = Payment(order_id, order_id, 900, "USD", method, reference)
        await until_answered(lambda payment=payment: payments.charge(payment))
        await until_answered(lambda payment=payment: payments.refund(payment))
        made.append(payment)
    fake.lost_share = 0.0
    assert fake.lost > lost_before
    for payment in made:
        assert sorted(await ledger(payments, payment)) == ["charge", "refund"]


async def test_the_ledger_is_read_page_by_page(fake, payments, monkeypatch):
    monkeypatch.setattr("orchestrator.gateways.stripe.PAGE_SIZE", 2)
    for _ in range(5):
        payment = await new_payment(fake, payments)
    await payments.charge(payment)
    began, calls = datetime.now(UTC) - timedelta(minutes=5), len(fake.calls)
    entries = [entry async for entry in payments.ledger(began)]
    pages = [call for call in fake.calls[calls:] if call == "/v1/payment_intents"]
    assert len(pages) > 2
    (entry,) = [each for each in entries if each.order_id == payment.order_id]
    assert (entry.payment_id, entry.amount_cents, entry.currency) == (payment.payment_id, 4_200, "EUR")
    assert entry.at >= datetime.now(UTC) - timedelta(minutes=1)


async def test_stripe_that_does_not_respond_is_an_error(pool):
    async with open_gateways(stripe_settings(), pool) as gateways:
        with pytest.raises(GatewayError, match="APIConnectionError") as raised:
            await gateways.payments.create(Payment("p", "o", 100))
    assert not isinstance(raised.value, GatewayDeclined)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"stripe_api_key": None}, "set STRIPE_API_KEY to a secret key of Stripe"),
        ({"stripe_api_key": SecretStr("sk_live_1")}, "not a test key; set STRIPE_LIVE=true"),
        (
            {"stripe_api_key": SecretStr("sk_live_1"), "stripe_live": True, "stripe_payment_method": "pm_1"},
            "STRIPE_PAYMENT_METHOD would charge one card for all orders",
        ),
        ({"carrier_gateway": "stripe"}, "the gateway 'stripe' has no carrier service"),
    ],
)
def test_wrong_settings_are_refused(changes, problem):
    role = "carrier" if "carrier_gateway" in changes else "payment"
    with pytest.raises(SettingsError, match=problem):
        provider(stripe_settings(**changes), role)


def test_the_key_is_not_printed():
    settings = stripe_settings()
    assert API_KEY not in repr(settings)
    assert API_KEY not in settings.model_dump_json()
