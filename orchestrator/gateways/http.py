"""The gateway `http`: any payment provider, warehouse or carrier that speaks the JSON protocol."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from datetime import datetime
from typing import Any, TypeVar

import httpx
from pydantic import TypeAdapter, ValidationError

from db.domain import Address, Item
from orchestrator.errors import GatewayDeclined, GatewayError
from orchestrator.gateways import http_protocol as protocol
from orchestrator.gateways.protocols import (
    Guarantees,
    LedgerEntry,
    PackageRecord,
    ParcelRecord,
    Payment,
    RefundOutcome,
)
from orchestrator.gateways.registry import Context, Provider
from orchestrator.security.certificates import client_context, rejection
from orchestrator.settings import Settings

Message = TypeVar("Message")

# To build a parser takes 0.1 to 0.6 ms.
_EMPTY = TypeAdapter(dict[str, Any])
_REFUND = TypeAdapter(protocol.Refund)
_TRACKING = TypeAdapter(protocol.Tracking)
_LEDGER = TypeAdapter(protocol.LedgerPage)
_PACKAGES = TypeAdapter(protocol.PackagePage)
_PARCELS = TypeAdapter(protocol.ParcelPage)

MAX_CONNECTIONS = 100
CONNECT_SECONDS = 1.0
READ_SECONDS = 30.0
"""Of a page of records. The timeout of an attempt is shorter, and limits all other calls."""


class HttpGateway:
    """A payment provider, a warehouse and a carrier at one URL."""

    guarantees = Guarantees()

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def create(self, payment: Payment) -> None:
        """The protocol has no announcement of a payment."""

    async def charge(self, payment: Payment) -> None:
        await self._post("/payments/charges", f"charge-{payment.payment_id}", payment, _EMPTY)

    async def refund(self, payment: Payment) -> RefundOutcome:
        response = await self._post("/payments/refunds", f"refund-{payment.payment_id}", payment, _REFUND)
        return response.outcome

    def ledger(self, since: datetime) -> AsyncIterator[LedgerEntry]:
        return self._records("/payments/ledger", since, _LEDGER)

    async def check_stock(self, order_id: str, items: list[Item]) -> None:
        body = protocol.StockCheck(order_id, items)
        await self._post("/warehouse/stock-checks", f"stock-{order_id}", body, _EMPTY)

    async def pack(self, package_key: str, order_id: str, items: list[Item]) -> None:
        body = protocol.Package(package_key, order_id, items)
        await self._post("/warehouse/packages", f"pack-{package_key}", body, _EMPTY)

    async def unpack(self, package_key: str, order_id: str) -> None:
        body = protocol.PackageCancellation(package_key, order_id)
        await self._post("/warehouse/cancellations", f"unpack-{package_key}", body, _EMPTY)

    def packages(self, since: datetime) -> AsyncIterator[PackageRecord]:
        return self._records("/warehouse/packages", since, _PACKAGES)

    async def check_address(self, order_id: str, address: Address) -> None:
        body = protocol.AddressCheck(order_id, address)
        await self._post("/carrier/address-checks", f"address-{order_id}", body, _EMPTY)

    async def dispatch(self, shipment_key: str, order_id: str, address: Address, label_version: int) -> str:
        body = protocol.Shipment(shipment_key, order_id, address, label_version)
        key = f"dispatch-{shipment_key}-{label_version}"
        return (await self._post("/carrier/shipments", key, body, _TRACKING)).tracking

    async def cancel_shipment(self, shipment_key: str, order_id: str) -> None:
        body = protocol.ShipmentCancellation(shipment_key, order_id)
        await self._post("/carrier/cancellations", f"recall-{shipment_key}", body, _EMPTY)

    def parcels(self, since: datetime) -> AsyncIterator[ParcelRecord]:
        return self._records("/carrier/shipments", since, _PARCELS)

    async def _post(self, path: str, key: str, body: Any, response_type: TypeAdapter[Message]) -> Message:
        return await self._request(
            "POST", path, response_type, json=asdict(body), headers={protocol.IDEMPOTENCY_KEY: key}
        )

    async def _records(self, path: str, since: datetime, page_type: TypeAdapter[Any]) -> AsyncIterator[Any]:
        """Yield the records of all pages."""
        cursor: str | None = ""
        while cursor is not None:
            params = {"since": since.isoformat(), "cursor": cursor}
            page = await self._request("GET", path, page_type, params=params)
            for record in page.records:
                yield record
            cursor = page.next

    async def _request(
        self, method: str, path: str, response_type: TypeAdapter[Message], **options: Any
    ) -> Message:
        try:
            response = await self._client.request(method, path, **options)
            if response.status_code == protocol.DECLINED_STATUS:
                raise GatewayDeclined(str(response.json()["detail"]))
            response.raise_for_status()
            return response_type.validate_json(response.content)
        except httpx.HTTPStatusError:
            raise GatewayError(f"{method} {path} failed with status {response.status_code}") from None
        except httpx.HTTPError as error:
            cause = rejection(error) or type(error).__name__
            raise GatewayError(f"{method} {path} failed: {cause}") from error
        except (ValidationError, ValueError, KeyError, TypeError) as error:
            raise GatewayError(
                f"{method} {path}: the response does not have the form of the protocol"
            ) from error


@asynccontextmanager
async def _opened(context: Context) -> AsyncIterator[HttpGateway]:
    settings = context.settings
    token = settings.http_gateway_token
    url = settings.http_gateway_url or ""
    async with httpx.AsyncClient(
        base_url=url,
        headers={"Authorization": f"Bearer {token.get_secret_value()}"} if token else {},
        verify=client_context(url),
        timeout=httpx.Timeout(READ_SECONDS, connect=CONNECT_SECONDS),
        limits=httpx.Limits(max_connections=MAX_CONNECTIONS, max_keepalive_connections=MAX_CONNECTIONS),
    ) as client:
        yield HttpGateway(client)


def _settings_problem(settings: Settings) -> str | None:
    if settings.http_gateway_url is None:
        return "set HTTP_GATEWAY_URL to the address of the gateway server."
    return None


PROVIDER = Provider(
    payment=_opened,
    warehouse=_opened,
    carrier=_opened,
    creates_payment=False,
    settings_problem=_settings_problem,
)
