"""A simulated payment provider, warehouse and carrier, each with its own ledger in schema `provider`."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from hashlib import sha256

from psycopg.types.json import Jsonb

from db import queries
from db.database import Database
from db.domain import Address, Item
from orchestrator.errors import DatabaseError, GatewayDeclined, GatewayError
from orchestrator.gateways.protocols import Gateways, RefundOutcome

_SQL = queries.load("provider_ledger.sql")


def simulated_gateways(database: Database) -> Gateways:
    return Gateways(
        payments=SimulatedPayments(database),
        warehouse=SimulatedWarehouse(database),
        carrier=SimulatedCarrier(database),
    )


class SimulatedPayments:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def charge(self, payment_id: str, order_id: str, amount_cents: int) -> None:
        parameters = {"payment_id": payment_id, "order_id": order_id, "amount_cents": amount_cents}
        with _provider_errors():
            if await self._database.fetch_one(_SQL["charge"], parameters):
                return
            entry = await self._database.fetch_one(_SQL["charge_or_void"], {"payment_id": payment_id})
        if entry is None or entry["kind"] != "charge":
            raise GatewayDeclined("the payment was voided")
        if (entry["order_id"], entry["amount_cents"]) != (order_id, amount_cents):
            raise GatewayDeclined("the payment id was used for another charge")

    async def refund(self, payment_id: str, order_id: str) -> RefundOutcome:
        parameters = {"payment_id": payment_id, "order_id": order_id}
        with _provider_errors():
            if await self._database.fetch_one(_SQL["void"], parameters):
                return RefundOutcome.VOIDED
            await self._database.execute(_SQL["refund"], parameters)
            entry = await self._database.fetch_one(_SQL["charge_or_void"], {"payment_id": payment_id})
        charged = entry is not None and entry["kind"] == "charge" and entry["order_id"] == order_id
        return RefundOutcome.REFUNDED if charged else RefundOutcome.VOIDED


class SimulatedWarehouse:
    """Has every item in stock, except those whose SKU starts with OUT-OF-STOCK."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def check_stock(self, items: list[Item]) -> None:
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


class SimulatedCarrier:
    """Delivers to every address, except to ZIP codes that start with 00000."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def check_address(self, address: Address) -> None:
        if address.zip.startswith("00000"):
            raise GatewayDeclined(f"no delivery to {address.zip}")

    async def dispatch(self, shipment_key: str, order_id: str, address: Address, label_version: int) -> str:
        # The address may have changed since the order was validated.
        await self.check_address(address)
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


@contextmanager
def _provider_errors() -> Iterator[None]:
    # The simulators use the order database, but a real provider would report its own failure.
    try:
        yield
    except DatabaseError as error:
        raise GatewayError("the provider is not responding") from error
