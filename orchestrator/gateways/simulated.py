"""A simulated payment provider, warehouse and carrier, each with its own ledger in schema `provider`."""

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from datetime import datetime
from hashlib import sha256
from typing import TypeVar

from psycopg.types.json import Jsonb

from db import queries
from db.database import Database
from db.domain import Address, Item
from orchestrator.errors import DatabaseError, GatewayDeclined, GatewayError
from orchestrator.gateways.protocols import (
    Guarantees,
    LedgerEntry,
    PackageRecord,
    ParcelRecord,
    Payment,
    RefundOutcome,
)
from orchestrator.gateways.registry import Provider
from orchestrator.settings.gateways import SIMULATED_CALLS

_SQL = queries.load("provider_ledger.sql")

PAGE_SIZE = 500

Record = TypeVar("Record", LedgerEntry, PackageRecord, ParcelRecord)


class SimulatedPayments:
    guarantees = Guarantees()

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(self, payment: Payment) -> None:
        """A simulated payment needs no announcement."""

    async def charge(self, payment: Payment) -> None:
        parameters = {
            "payment_id": payment.payment_id,
            "order_id": payment.order_id,
            "amount_cents": payment.amount_cents,
            "currency": payment.currency,
        }
        with _provider_errors():
            if await self._database.fetch_one(_SQL["charge"], parameters):
                return
            entry = await self._database.fetch_one(_SQL["charge_or_void"], {"payment_id": payment.payment_id})
        if entry is None or entry["kind"] != "charge":
            raise GatewayDeclined("the payment was voided")
        wanted = (payment.order_id, payment.amount_cents, payment.currency)
        if (entry["order_id"], entry["amount_cents"], entry["currency"]) != wanted:
            raise GatewayDeclined("the payment id was used for another charge")

    async def refund(self, payment: Payment) -> RefundOutcome:
        parameters = {
            "payment_id": payment.payment_id,
            "order_id": payment.order_id,
            "currency": payment.currency,
        }
        with _provider_errors():
            if await self._database.fetch_one(_SQL["void"], parameters):
                return RefundOutcome.VOIDED
            await self._database.execute(_SQL["refund"], parameters)
            entry = await self._database.fetch_one(_SQL["charge_or_void"], {"payment_id": payment.payment_id})
        charged = entry is not None and entry["kind"] == "charge" and entry["order_id"] == payment.order_id
        return RefundOutcome.REFUNDED if charged else RefundOutcome.VOIDED

    def ledger(self, since: datetime, after: str = "") -> AsyncIterator[LedgerEntry]:
        return _records(self._database, "ledger_page", since, after, LedgerEntry)


class SimulatedWarehouse:
    """Has every item in stock, except those whose SKU starts with OUT-OF-STOCK."""

    guarantees = Guarantees()

    def __init__(self, database: Database) -> None:
        self._database = database

    async def check_stock(self, order_id: str, items: list[Item]) -> None:  # noqa: ARG002
        for item in items:
            if item.sku.upper().startswith("OUT-OF-STOCK"):
                raise GatewayDeclined(f"{item.sku} is out of stock")

    async def pack(self, package_key: str, order_id: str, items: list[Item]) -> None:
        parameters = {
            "package_key": package_key,
            "order_id": order_id,
            "items": Jsonb([asdict(item) for item in items]),
        }
        with _provider_errors():
            if await self._database.fetch_one(_SQL["pack"], parameters) is None:
                raise GatewayDeclined("the package was cancelled")

    async def unpack(self, package_key: str, order_id: str) -> None:
        with _provider_errors():
            await self._database.execute(_SQL["unpack"], {"package_key": package_key, "order_id": order_id})

    def packages(self, since: datetime, after: str = "") -> AsyncIterator[PackageRecord]:
        return _records(self._database, "packages_page", since, after, PackageRecord)


class SimulatedCarrier:
    """Delivers to every address, except to ZIP codes that start with 00000."""

    guarantees = Guarantees()

    def __init__(self, database: Database) -> None:
        self._database = database

    async def check_address(self, order_id: str, address: Address) -> None:  # noqa: ARG002
        if address.zip.startswith("00000"):
            raise GatewayDeclined(f"no delivery to {address.zip}")

    async def dispatch(self, shipment_key: str, order_id: str, address: Address, label_version: int) -> str:
        # The address may have changed since the order was validated.
        await self.check_address(order_id, address)
        parameters = {
            "shipment_key": shipment_key,
            "order_id": order_id,
            "label_version": label_version,
            "address": Jsonb(address.to_json()),
            "tracking": f"TRK-{sha256(shipment_key.encode()).hexdigest()[:12].upper()}",
        }
        with _provider_errors():
            row = await self._database.fetch_one(_SQL["dispatch"], parameters)
        if row is None:
            raise GatewayDeclined("the shipment was cancelled")
        return str(row["tracking"])

    async def cancel_shipment(self, shipment_key: str, order_id: str) -> None:
        parameters = {"shipment_key": shipment_key, "order_id": order_id}
        with _provider_errors():
            await self._database.execute(_SQL["cancel_shipment"], parameters)

    def parcels(self, since: datetime, after: str = "") -> AsyncIterator[ParcelRecord]:
        return _records(self._database, "parcels_page", since, after, ParcelRecord)


async def _records(
    database: Database, statement: str, since: datetime, after: str, record: type[Record]
) -> AsyncIterator[Record]:
    """Yield the records since a time and after a reference, PAGE_SIZE per query."""
    while True:
        with _provider_errors():
            page = await database.fetch_all(
                _SQL[statement], {"since": since, "after": after, "limit": PAGE_SIZE}
            )
        for row in page:
            yield record(**row)
        if len(page) < PAGE_SIZE:
            return
        after = str(next(iter(page[-1].values())))


@contextmanager
def _provider_errors() -> Iterator[None]:
    # The simulators use the order database, but a real provider would report its own failure.
    try:
        yield
    except DatabaseError as error:
        raise GatewayError("the provider is not responding") from error


PROVIDER = Provider(
    payment=lambda context: nullcontext(SimulatedPayments(context.database)),
    warehouse=lambda context: nullcontext(SimulatedWarehouse(context.database)),
    carrier=lambda context: nullcontext(SimulatedCarrier(context.database)),
    calls=SIMULATED_CALLS,
    creates_payment=False,
)
