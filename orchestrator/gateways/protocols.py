"""The interfaces to external services. Implement them to use a real payment provider, warehouse or carrier.

Every call is idempotent by its key and may be repeated after any failure. A compensating call also blocks
late calls: after `refund`, `cancel_shipment` or `unpack` has returned, the gateway declines every late
repetition of the reverted call. Compensation is therefore safe while a dead worker's call may still be in
flight.

All raise GatewayDeclined for a final refusal, and GatewayError for a failure that a retry may fix.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from db.domain import Address, Item


class RefundOutcome(StrEnum):
    REFUNDED = "refunded"
    VOIDED = "voided"


class PaymentProvider(Protocol):
    async def charge(self, payment_id: str, order_id: str, amount_cents: int) -> None:
        """Charge once for each `payment_id`, which is the idempotency key."""

    async def refund(self, payment_id: str, order_id: str) -> RefundOutcome:
        """Refund the charge, or void the `payment_id` when nothing was charged."""


class Warehouse(Protocol):
    async def check_stock(self, items: list[Item]) -> None:
        """Decline when an item is not in stock."""

    async def pack(self, package_key: str, order_id: str, items: list[Item]) -> None: ...

    async def unpack(self, package_key: str, order_id: str) -> None:
        """Return a package to stock, or void its key when it was never packed."""


class Carrier(Protocol):
    async def check_address(self, address: Address) -> None:
        """Decline when the carrier does not deliver to the address."""

    async def dispatch(self, shipment_key: str, order_id: str, address: Address, label_version: int) -> str:
        """Dispatch a parcel and return its tracking number.

        A repetition with a higher `label_version` replaces the address on the label.
        """

    async def cancel_shipment(self, shipment_key: str, order_id: str) -> None:
        """Recall a parcel, or void its key when it was never dispatched."""


@dataclass(frozen=True)
class Gateways:
    """The external services of an order."""

    payments: PaymentProvider
    warehouse: Warehouse
    carrier: Carrier
