"""What the order system asks of the world outside. Implement these to use a real provider.

Every call is idempotent by its key and may be repeated after any failure. A call that undoes also
prevents: once `refund`, `cancel_shipment` or `unpack` has returned, a late repetition of the call it undoes
is declined. That is what makes compensation safe while a worker that was thought dead may still have
a call in flight.

All raise GatewayDeclined for a final no and GatewayError for anything that may work next time.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from db.domain import Address, Item


class RefundOutcome(StrEnum):
    REFUNDED = "refunded"
    VOIDED = "voided"


@dataclass(frozen=True)
class PaymentRecord:
    """What the provider holds for one idempotency key, in cents."""

    charged_cents: int
    refunded_cents: int


class PaymentProvider(Protocol):
    async def charge(self, payment_id: str, order_id: str, amount_cents: int) -> None:
        """Charges once for each `payment_id`, which is the idempotency key."""

    async def refund(self, payment_id: str, order_id: str) -> RefundOutcome:
        """Pays back what was charged, or calls the key off when nothing was."""

    async def look_up(self, payment_id: str) -> PaymentRecord: ...


class Warehouse(Protocol):
    async def check_stock(self, items: list[Item]) -> None:
        """Declines when a line cannot be delivered."""

    async def pack(self, package_key: str, order_id: str, items: list[Item]) -> None: ...

    async def unpack(self, package_key: str, order_id: str) -> None:
        """Returns a package to the shelf, or calls it off when it was never packed."""


class Carrier(Protocol):
    async def check_address(self, address: Address) -> None:
        """Declines when the carrier does not deliver there."""

    async def dispatch(self, shipment_key: str, order_id: str, address: Address, label_version: int) -> str:
        """Hands a parcel over and returns its tracking number.

        Repeated with a higher `label_version`, it replaces the address on the label.
        """

    async def cancel_shipment(self, shipment_key: str, order_id: str) -> None:
        """Takes a parcel back, or refuses it in advance when it was never handed over."""


@dataclass(frozen=True)
class Gateways:
    """The three parties an order needs."""

    payments: PaymentProvider
    warehouse: Warehouse
    carrier: Carrier
