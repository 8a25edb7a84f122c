"""The payment provider Stripe: one PaymentIntent for each order.

The intent is created when the order is validated, confirmed to charge, and cancelled or refunded as
compensation. Stripe refuses to confirm a cancelled intent, so that a late charge fails there.
"""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import stripe

from orchestrator.errors import GatewayDeclined, GatewayError
from orchestrator.gateways.protocols import Guarantees, LedgerEntry, Payment, RefundOutcome
from orchestrator.gateways.registry import Context, Provider
from orchestrator.settings import Settings

PAGE_SIZE = 100
"""Stripe's maximum."""

REQUEST_SECONDS = 30.0
"""Of a page of the ledger. The timeout of an attempt is shorter."""

_CLOCK_TICK = timedelta(seconds=1)
_CONFLICT_STATUS = 409


class StripePayments:
    guarantees = Guarantees()

    def __init__(self, client: stripe.StripeClient, default_method: str | None) -> None:
        self._intents = client.v1.payment_intents
        self._refunds = client.v1.refunds
        self._default_method = default_method

    async def create(self, payment: Payment) -> str:
        """Create the PaymentIntent, and return its id. Its idempotency key holds for at least 24 hours."""
        params: Any = {
            "amount": payment.amount_cents,
            "currency": payment.currency.lower(),
            "payment_method_types": ["card"],
            "metadata": _metadata(payment),
        }
        if (method := payment.method or self._default_method) is not None:
            params["payment_method"] = method
        with _translated_errors():
            intent = await self._intents.create_async(params, _key(f"create-{payment.payment_id}"))
        return str(intent.id)

    async def charge(self, payment: Payment) -> None:
        reference = payment.reference or await self.create(payment)
        with _translated_errors():
            try:
                options = _key(f"confirm-{payment.payment_id}")
                intent = await self._intents.confirm_async(reference, options=options)
            except stripe.InvalidRequestError:
                # The intent is confirmed or cancelled.
                intent = await self._intents.retrieve_async(reference)
        if intent.status == "processing":
            raise GatewayError("Stripe is still processing the payment")
        if intent.status != "succeeded":
            raise GatewayDeclined(f"the PaymentIntent is {intent.status}")

    async def refund(self, payment: Payment) -> RefundOutcome:
        # Without a reference, the response to `create` was lost, and the same key returns the intent.
        try:
            reference = payment.reference or await self.create(payment)
        except GatewayDeclined as error:
            if isinstance(error.__cause__, stripe.InvalidRequestError):
                # Stripe rejects the payment, so it has created no intent.
                return RefundOutcome.VOIDED
            raise
        with _translated_errors():
            try:
                intent = await self._intents.cancel_async(reference)
            except stripe.InvalidRequestError:
                # The intent is confirmed, or cancelled already.
                intent = await self._intents.retrieve_async(reference)
            if intent.status == "canceled":
                return RefundOutcome.VOIDED
            if intent.status != "succeeded":
                raise GatewayError(f"the PaymentIntent is {intent.status}")
            await self._refund(reference, payment)
        return RefundOutcome.REFUNDED

    async def _refund(self, reference: str, payment: Payment) -> None:
        params: Any = {"payment_intent": reference, "metadata": _metadata(payment)}
        try:
            await self._refunds.create_async(params, _key(f"refund-{payment.payment_id}"))
        except stripe.InvalidRequestError as error:
            if error.code != "charge_already_refunded":
                raise

    async def ledger(self, since: datetime) -> AsyncIterator[LedgerEntry]:
        params: Any = {"created": {"gte": int(since.timestamp())}, "limit": PAGE_SIZE}
        with _translated_errors():
            charged = params | {"expand": ["data.latest_charge"]}
            async for intent in (await self._intents.list_async(charged)).auto_paging_iter():
                if intent.status == "succeeded" and "payment_id" in intent.metadata:
                    yield _entry("charge", intent.latest_charge, intent.metadata)
            async for refund in (await self._refunds.list_async(params)).auto_paging_iter():
                if refund.status != "failed" and "payment_id" in (refund.metadata or {}):
                    yield _entry("refund", refund, refund.metadata)


def _entry(kind: Any, record: Any, metadata: Any) -> LedgerEntry:
    return LedgerEntry(
        entry_ref=record.id,
        payment_id=metadata["payment_id"],
        order_id=metadata["order_id"],
        kind=kind,
        amount_cents=record.amount,
        currency=record.currency.upper(),
        at=datetime.fromtimestamp(record.created, UTC) + _CLOCK_TICK,
    )


def _metadata(payment: Payment) -> dict[str, str]:
    return {"payment_id": payment.payment_id, "order_id": payment.order_id}


def _key(idempotency_key: str) -> Any:
    return {"idempotency_key": idempotency_key}


@contextmanager
def _translated_errors() -> Iterator[None]:
    """Translate the errors of Stripe. The messages of other errors than a decline can quote the request."""
    try:
        yield
    except stripe.CardError as error:
        raise GatewayDeclined(error.user_message or f"Stripe declined the card: {error.code}") from error
    except stripe.IdempotencyError as error:
        if error.http_status == _CONFLICT_STATUS:
            raise GatewayError("Stripe is still processing an earlier call") from error
        raise GatewayDeclined("the payment id was used for another payment") from error
    except stripe.InvalidRequestError as error:
        cause = error.code or error.param or f"status {error.http_status}"
        raise GatewayDeclined(f"Stripe rejected the payment: {cause}") from error
    except stripe.StripeError as error:
        raise GatewayError(
            f"Stripe failed: {type(error).__name__} {error.http_status or ''}".strip()
        ) from error


@asynccontextmanager
async def _opened(context: Context) -> AsyncIterator[StripePayments]:
    settings = context.settings
    assert settings.stripe_api_key is not None, "checked by _settings_problem"
    http_client = stripe.HTTPXClient(timeout=REQUEST_SECONDS)
    client = stripe.StripeClient(
        settings.stripe_api_key.get_secret_value(),
        base_addresses={"api": settings.stripe_api_base},
        # The order system retries, with the same keys.
        max_network_retries=0,
        http_client=http_client,
    )
    try:
        yield StripePayments(client, settings.stripe_payment_method)
    finally:
        await http_client.close_async()  # type: ignore[no-untyped-call]


def _settings_problem(settings: Settings) -> str | None:
    if settings.stripe_api_key is None:
        return "set STRIPE_API_KEY to a secret key of Stripe."
    is_live = "_test_" not in settings.stripe_api_key.get_secret_value()
    if is_live and not settings.stripe_live:
        return "STRIPE_API_KEY is not a test key; set STRIPE_LIVE=true to charge real cards."
    if is_live and settings.stripe_payment_method is not None:
        return "STRIPE_PAYMENT_METHOD would charge one card for all orders; unset it with a live key."
    return None


PROVIDER = Provider(payment=_opened, settings_problem=_settings_problem)
