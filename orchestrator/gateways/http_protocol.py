"""The JSON messages of the gateway `http`. docs/reference/gateway-protocol.md describes the protocol."""

from dataclasses import dataclass

from db.domain import Address, Item
from orchestrator.gateways.protocols import LedgerEntry, PackageRecord, ParcelRecord, RefundOutcome

IDEMPOTENCY_KEY = "Idempotency-Key"

DECLINED_STATUS = 409
"""The status of a final refusal. Any other error status is a failure that a retry may fix."""


@dataclass(frozen=True)
class StockCheck:
    order_id: str
    items: list[Item]


@dataclass(frozen=True)
class Package:
    package_key: str
    order_id: str
    items: list[Item]


@dataclass(frozen=True)
class PackageCancellation:
    package_key: str
    order_id: str


@dataclass(frozen=True)
class AddressCheck:
    order_id: str
    address: Address


@dataclass(frozen=True)
class Shipment:
    shipment_key: str
    order_id: str
    address: Address
    label_version: int


@dataclass(frozen=True)
class ShipmentCancellation:
    shipment_key: str
    order_id: str


@dataclass(frozen=True)
class Refund:
    outcome: RefundOutcome


@dataclass(frozen=True)
class Tracking:
    tracking: str


@dataclass(frozen=True)
class Declined:
    detail: str


@dataclass(frozen=True)
class LedgerPage:
    """`next` is the cursor of the next page; None on the last one."""

    records: list[LedgerEntry]
    next: str | None


@dataclass(frozen=True)
class PackagePage:
    records: list[PackageRecord]
    next: str | None


@dataclass(frozen=True)
class ParcelPage:
    records: list[ParcelRecord]
    next: str | None
