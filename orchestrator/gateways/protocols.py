"""The interfaces to external services. Implement them to use a real payment provider, warehouse or carrier.

Every call may be repeated after any failure. All raise GatewayDeclined for a final refusal, and GatewayError
for a failure that a retry may fix. `guarantees` declares what the provider gives; `guarantees.py` has what
the order system does without it.
"""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Literal, Protocol

from db.currencies import DEFAULT_CURRENCY
from db.domain import Address, Item, Step
from orchestrator.gateways.call_guard import StepCalls


@dataclass(frozen=True)
class Guarantees:
    """What a provider guarantees.

    `idempotency_key`: a repeated call with the same key has no further effect. `void`: after a compensating
    call has returned, the provider declines every late repetition of the reverted call; otherwise a call can
    take effect up to `in_flight_seconds` after it was sent. `replaceable_label` (carriers): a repeated
    dispatch with a higher label version replaces the address.
    """

    idempotency_key: bool = True
    void: bool = True
    in_flight_seconds: float = 0.0
    replaceable_label: bool = True


class RefundOutcome(StrEnum):
    REFUNDED = "refunded"
    VOIDED = "voided"


@dataclass(frozen=True)
class Payment:
    """The payment of an order. `payment_id` is the idempotency key, `amount_cents` in the currency's minor
    unit.

    `method` is the provider's id of the customer's card or account, and `reference` what `create` returned.
    """

    payment_id: str
    order_id: str
    amount_cents: int
    currency: str = DEFAULT_CURRENCY
    method: str | None = None
    reference: str | None = None


@dataclass(frozen=True)
class LedgerEntry:
    """A charge or a refund in a provider's ledger. `at` is the end of the provider's clock tick, so that it
    is not before the call."""

    entry_ref: str
    payment_id: str
    order_id: str
    kind: Literal["charge", "refund"]
    amount_cents: int
    currency: str
    at: datetime


@dataclass(frozen=True)
class PackageRecord:
    package_ref: str
    order_id: str
    packed_at: datetime | None
    recalled_at: datetime | None


@dataclass(frozen=True)
class ParcelRecord:
    parcel_ref: str
    order_id: str
    label_version: int | None
    label_address: dict[str, str] | None
    tracking: str | None
    dispatched_at: datetime | None
    recalled_at: datetime | None


class PaymentProvider(Protocol):
    @property
    def guarantees(self) -> Guarantees: ...

    async def create(self, payment: Payment) -> str | None:
        """Announce the payment when the order is validated; return the provider's reference, None without
        one."""

    async def charge(self, payment: Payment) -> None:
        """Charge once for each `payment_id`."""

    async def refund(self, payment: Payment) -> RefundOutcome:
        """Refund the charge, or void the payment when nothing was charged."""

    def ledger(self, since: datetime) -> AsyncIterator[LedgerEntry]:
        """Yield the charges and refunds since a time, page by page, for the audit."""


class Warehouse(Protocol):
    @property
    def guarantees(self) -> Guarantees: ...

    async def check_stock(self, order_id: str, items: list[Item]) -> None:
        """Decline when an item is not in stock."""

    async def pack(self, package_key: str, order_id: str, items: list[Item]) -> None: ...

    async def unpack(self, package_key: str, order_id: str) -> None:
        """Return a package to stock, or void its key when it was never packed."""

    def packages(self, since: datetime) -> AsyncIterator[PackageRecord]:
        """Yield the packages that changed since a time, page by page, for the audit."""


class Carrier(Protocol):
    @property
    def guarantees(self) -> Guarantees: ...

    async def check_address(self, order_id: str, address: Address) -> None:
        """Decline when the carrier does not deliver to the address."""

    async def dispatch(self, shipment_key: str, order_id: str, address: Address, label_version: int) -> str:
        """Dispatch a parcel and return its tracking number.

        A repetition with a higher `label_version` replaces the address on the label.
        """

    async def cancel_shipment(self, shipment_key: str, order_id: str) -> None:
        """Recall a parcel, or void its key when it was never dispatched."""

    def parcels(self, since: datetime) -> AsyncIterator[ParcelRecord]:
        """Yield the parcels that changed since a time, page by page, for the audit."""


@dataclass(frozen=True)
class Gateways:
    """The external services of an order.

    `calls` has how each step calls them; a step that is not in it calls simulated gateways.
    `creates_payment`: the payment provider has a record of a payment before the charge, which the
    compensation of an order must cancel.
    """

    payments: PaymentProvider
    warehouse: Warehouse
    carrier: Carrier
    calls: Mapping[Step, StepCalls] = field(default_factory=dict[Step, StepCalls])
    creates_payment: bool = False
