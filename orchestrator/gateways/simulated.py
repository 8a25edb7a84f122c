"""A payment provider, a warehouse and a carrier that keep ledgers of their own in schema `provider`."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from hashlib import sha256

from psycopg.types.json import Jsonb

from db import queries
from db.database import Database
from db.domain import Address, Item
from orchestrator.errors import DatabaseUnavailable, GatewayDeclined, GatewayError
from orchestrator.gateways.protocols import Gateways, PaymentRecord, RefundOutcome

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
        with _provider_errors():
            parameters = {"payment_id": payment_id, "order_id": order_id, "amount_cents": amount_cents}
            if await self._database.fetch_one(_SQL["charge"], parameters):
                return
            fate = await self._database.fetch_one(_SQL["fate"], {"payment_id": payment_id})
        if fate is None or fate["kind"] != "charge":
            raise GatewayDeclined("the payment has been called off")
        if (fate["order_id"], fate["amount_cents"]) != (order_id, amount_cents):
            raise GatewayDeclined("the payment id was used for something else")

    async def refund(self, payment_id: str, order_id: str) -> RefundOutcome:
        with _provider_errors():
            parameters = {"payment_id": payment_id, "order_id": order_id}
            if await self._database.fetch_one(_SQL["void"], parameters):
                return RefundOutcome.VOIDED
            await self._database.execute(_SQL["refund"], parameters)
            fate = await self._database.fetch_one(_SQL["fate"], {"payment_id": payment_id})
        charged = fate is not None and fate["kind"] == "charge" and fate["order_id"] == order_id
        return RefundOutcome.REFUNDED if charged else RefundOutcome.VOIDED

    async def look_up(self, payment_id: str) -> PaymentRecord:
        with _provider_errors():
            row = await self._database.fetch_one(_SQL["payment"], {"payment_id": payment_id})
        if row is None:
            return PaymentRecord(0, 0)
        return PaymentRecord(int(row["charged_cents"]), int(row["refunded_cents"]))


class SimulatedWarehouse:
    """Has everything in stock, except articles whose SKU starts with OUT-OF-STOCK."""

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
                raise GatewayDeclined("the package has been called off")

    async def unpack(self, package_key: str, order_id: str) -> None:
        with _provider_errors():
            await self._database.execute(_SQL["unpack"], {"package_key": package_key, "order_id": order_id})


class SimulatedCarrier:
    """Delivers everywhere, except to ZIP codes that start with 00000."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def check_address(self, address: Address) -> None:
        if address.zip.startswith("00000"):
            raise GatewayDeclined(f"no delivery to {address.zip}")

    async def dispatch(self, shipment_key: str, order_id: str, address: Address, label_version: int) -> str:
        # The address may be another one than was checked when the order was validated.
        await self.check_address(address)
        parameters = {
            "shipment_key": shipment_key,
            "order_id": order_id,
            "label_version": label_version,
            "address": Jsonb(asdict(address)),
            "tracking": f"TRK-{sha256(shipment_key.encode()).hexdigest()[:12].upper()}",
        }
        with _provider_errors():
            row = await self._database.fetch_one(_SQL["dispatch"], parameters)
        if row is None:
            raise GatewayDeclined("the parcel has been called off")
        return str(row["tracking"])

    async def cancel_shipment(self, shipment_key: str, order_id: str) -> None:
        with _provider_errors():
            await self._database.execute(
                _SQL["cancel_shipment"], {"shipment_key": shipment_key, "order_id": order_id}
            )


@contextmanager
def _provider_errors() -> Iterator[None]:
    # The simulators live in the same database, but a caller of a real provider would see a failed call.
    try:
        yield
    except DatabaseUnavailable as error:
        raise GatewayError("the provider does not answer") from error
