"""A server with the protocol of the gateway `http`: the simulated gateways and their ledger in a process.

    python -m orchestrator.gateways.server --port 8700

`PUT /faults` sets the fault profile of this server, as `PUT /faults` of the API does for simulated gateways.
"""

import asyncio
import hmac
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeVar

import psycopg
import typer
import uvicorn
from fastapi import APIRouter, Body, Depends, FastAPI, Header, HTTPException, Query, Request
from fastapi.responses import JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from psycopg.conninfo import make_conninfo
from psycopg.errors import DuplicateDatabase

from db.database import Database
from db.domain import Step
from orchestrator.errors import ExitCode, GatewayDeclined, GatewayError, SettingsError
from orchestrator.gateways import http_protocol as protocol
from orchestrator.gateways.fault_injection import Call, FaultInjector, FaultProfile, named_profile
from orchestrator.gateways.protocols import Payment
from orchestrator.gateways.simulated import (
    PAGE_SIZE,
    SimulatedCarrier,
    SimulatedPayments,
    SimulatedWarehouse,
)
from orchestrator.settings import LOOPBACK, Settings

T = TypeVar("T")

SCHEMA_FILE = Path(__file__).parents[2] / "db" / "migrations" / "20261127000004_provider_ledger.sql"

MAX_COUNTED_CALLS = 100_000
"""Calls whose attempts are counted. Then the counts begin again, which only changes later faults."""


class Simulators:
    """The simulated gateways, with faults before and after each call."""

    def __init__(self, database: Database) -> None:
        self.payments = SimulatedPayments(database)
        self.warehouse = SimulatedWarehouse(database)
        self.carrier = SimulatedCarrier(database)
        self.injector = FaultInjector(named_profile("none"))
        self._attempts: Counter[tuple[str, Step]] = Counter()

    async def call(self, request: Request, order_id: str, step: Step, work: Callable[[], Awaitable[T]]) -> T:
        """Run a call with the faults of the profile. A call that hangs ends when its client disconnects."""
        if len(self._attempts) > MAX_COUNTED_CALLS:
            self._attempts.clear()
        self._attempts[order_id, step] += 1
        attempt = self._attempts[order_id, step]
        running = asyncio.create_task(self.injector.call(Call(order_id, step, attempt), work))
        # The body was received, so the next message is the disconnect.
        disconnected = asyncio.create_task(_disconnect(request))
        try:
            await asyncio.wait((running, disconnected), return_when=asyncio.FIRST_COMPLETED)
            if not running.done():
                raise HTTPException(499)
            return running.result()
        finally:
            running.cancel()
            disconnected.cancel()


async def _disconnect(request: Request) -> None:
    await request.receive()


async def _simulators(request: Request) -> Simulators:
    simulators: Simulators = request.app.state.simulators
    return simulators


async def _authorized(
    request: Request,
    given: Annotated[HTTPAuthorizationCredentials | None, Depends(HTTPBearer(auto_error=False))],
) -> None:
    token: str | None = request.app.state.token
    if token is None:
        return
    if given is None or not hmac.compare_digest(given.credentials.encode(), token.encode()):
        raise HTTPException(401, "this server needs the bearer token")


async def _idempotency_key(idempotency_key: Annotated[str, Header()]) -> str:
    return idempotency_key


Sims = Annotated[Simulators, Depends(_simulators)]
Since = Annotated[datetime, Query(description="Records that changed at or after this time.")]
Cursor = Annotated[str, Query(description="`next` of the previous page; empty for the first one.")]


changes = APIRouter(dependencies=[Depends(_idempotency_key)])
records = APIRouter()


@changes.post("/payments/charges", tags=["payment"])
async def charge(payment: Payment, sims: Sims, request: Request) -> dict[str, str]:
    """Charge once for each payment_id."""
    await sims.call(request, payment.order_id, Step.CHARGE, lambda: sims.payments.charge(payment))
    return {}


@changes.post("/payments/refunds", tags=["payment"])
async def refund(payment: Payment, sims: Sims, request: Request) -> protocol.Refund:
    """Refund the charge, or void the payment_id: every later charge is declined."""
    work = partial(sims.payments.refund, payment)
    return protocol.Refund(await sims.call(request, payment.order_id, Step.REFUND, work))


@records.get("/payments/ledger", tags=["payment"])
async def ledger(sims: Sims, since: Since, cursor: Cursor = "") -> protocol.LedgerPage:
    """Return charges and refunds."""
    records = await _page(sims.payments.ledger(since, after=cursor))
    return protocol.LedgerPage(records, records[-1].entry_ref if len(records) == PAGE_SIZE else None)


@changes.post("/warehouse/stock-checks", tags=["warehouse"])
async def check_stock(check: protocol.StockCheck, sims: Sims, request: Request) -> dict[str, str]:
    """Decline when an item is not in stock."""
    work = partial(sims.warehouse.check_stock, check.order_id, check.items)
    await sims.call(request, check.order_id, Step.RECEIVE, work)
    return {}


@changes.post("/warehouse/packages", tags=["warehouse"])
async def pack(package: protocol.Package, sims: Sims, request: Request) -> dict[str, str]:
    """Pack once for each package_key."""
    work = partial(sims.warehouse.pack, package.package_key, package.order_id, package.items)
    await sims.call(request, package.order_id, Step.PREPARE, work)
    return {}


@changes.post("/warehouse/cancellations", tags=["warehouse"])
async def unpack(package: protocol.PackageCancellation, sims: Sims, request: Request) -> dict[str, str]:
    """Return the package to stock, or void its key: it is never packed."""
    work = partial(sims.warehouse.unpack, package.package_key, package.order_id)
    await sims.call(request, package.order_id, Step.RECALL, work)
    return {}


@records.get("/warehouse/packages", tags=["warehouse"])
async def packages(sims: Sims, since: Since, cursor: Cursor = "") -> protocol.PackagePage:
    records = await _page(sims.warehouse.packages(since, after=cursor))
    return protocol.PackagePage(records, records[-1].package_ref if len(records) == PAGE_SIZE else None)


@changes.post("/carrier/address-checks", tags=["carrier"])
async def check_address(check: protocol.AddressCheck, sims: Sims, request: Request) -> dict[str, str]:
    """Decline when the carrier does not deliver to the address."""
    work = partial(sims.carrier.check_address, check.order_id, check.address)
    await sims.call(request, check.order_id, Step.VALIDATE, work)
    return {}


@changes.post("/carrier/shipments", tags=["carrier"])
async def dispatch(shipment: protocol.Shipment, sims: Sims, request: Request) -> protocol.Tracking:
    """Dispatch once for each shipment_key. A higher label_version replaces the address on the label."""
    key, order_id = shipment.shipment_key, shipment.order_id
    work = partial(sims.carrier.dispatch, key, order_id, shipment.address, shipment.label_version)
    tracking = await sims.call(request, order_id, Step.DISPATCH, work)
    return protocol.Tracking(tracking)


@changes.post("/carrier/cancellations", tags=["carrier"])
async def cancel(shipment: protocol.ShipmentCancellation, sims: Sims, request: Request) -> dict[str, str]:
    """Recall the parcel, or void its key: it is never dispatched."""
    work = partial(sims.carrier.cancel_shipment, shipment.shipment_key, shipment.order_id)
    await sims.call(request, shipment.order_id, Step.RECALL, work)
    return {}


@records.get("/carrier/shipments", tags=["carrier"])
async def parcels(sims: Sims, since: Since, cursor: Cursor = "") -> protocol.ParcelPage:
    records = await _page(sims.carrier.parcels(since, after=cursor))
    return protocol.ParcelPage(records, records[-1].parcel_ref if len(records) == PAGE_SIZE else None)


@records.put("/faults", include_in_schema=False)
async def set_faults(sims: Sims, body: Annotated[dict[str, Any], Body()]) -> dict[str, str]:
    name, seed = str(body["profile"]), int(body.get("seed", 0))
    try:
        if name == "custom":
            sims.injector.profile = FaultProfile.from_json(name, seed, body["rates"])
        else:
            sims.injector.profile = named_profile(name, seed)
    except (ValueError, KeyError) as error:
        raise HTTPException(422, str(error)) from error
    return {"profile": name}


async def _page(records: AsyncIterator[T]) -> list[T]:
    page: list[T] = []
    async for record in records:
        page.append(record)
        if len(page) == PAGE_SIZE:
            break
    return page


def create_app(database_url: str, token: str | None = None) -> FastAPI:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with Database(database_url, application_name="gateway-server") as database:
            app.state.simulators = Simulators(database)
            app.state.token = token
            yield

    declined = {"model": protocol.Declined, "description": "A final refusal; not retried."}
    app = FastAPI(
        title="Gateway protocol",
        version="1.0",
        description="The protocol of the gateway `http`. Calls with one Idempotency-Key take effect once.",
        lifespan=lifespan,
        dependencies=[Depends(_authorized)],
        responses={protocol.DECLINED_STATUS: declined},
    )
    app.add_exception_handler(GatewayError, _on_gateway_error)
    app.include_router(changes)
    app.include_router(records)
    return app


async def _on_gateway_error(_request: Request, error: Exception) -> JSONResponse:
    status = protocol.DECLINED_STATUS if isinstance(error, GatewayDeclined) else 503
    return JSONResponse({"detail": str(error)}, status_code=status)


def embedded_database() -> str:
    """Create the database `gateways` in the embedded PostgreSQL, unless it exists, and return its URL."""
    stack = Settings.load().model_copy(update={"database_url": None})
    url = stack.order_database_url
    with psycopg.connect(url, autocommit=True) as connection, suppress(DuplicateDatabase):
        connection.execute("create database gateways")
    return make_conninfo(url, dbname="gateways")


def create_schema(database_url: str) -> None:
    """Create the tables of the simulators in their own database, unless they exist."""
    up = SCHEMA_FILE.read_text().partition("-- migrate:down")[0]
    with psycopg.connect(database_url) as connection:
        row = connection.execute("select 1 from pg_namespace where nspname = 'provider'").fetchone()
        if row is None:
            connection.execute(up.encode())


def main(
    database_url: Annotated[
        str | None,
        typer.Option(
            envvar="GATEWAY_DATABASE_URL",
            help="A database for the simulators alone; by default `gateways` in the embedded PostgreSQL.",
        ),
    ] = None,
    port: Annotated[int, typer.Option()] = 8700,
    host: Annotated[str, typer.Option()] = LOOPBACK,
    token: Annotated[str | None, typer.Option(envvar="HTTP_GATEWAY_TOKEN")] = None,
    certificate: Annotated[Path | None, typer.Option(help="PEM file, for HTTPS.")] = None,
    key: Annotated[Path | None, typer.Option(help="PEM file of the certificate's key.")] = None,
) -> None:
    """Serve the gateway protocol until SIGINT or SIGTERM."""
    try:
        database_url = database_url or embedded_database()
        create_schema(database_url)
    except (psycopg.OperationalError, SettingsError) as error:
        cause = str(error).partition("\n")[0]
        typer.echo(f"The gateway server cannot use its database: {cause}", err=True)
        raise typer.Exit(ExitCode.WRONG_USAGE) from None
    uvicorn.run(
        create_app(database_url, token),
        host=host,
        port=port,
        log_level="warning",
        ssl_certfile=certificate,
        ssl_keyfile=key,
        timeout_graceful_shutdown=1,
    )


if __name__ == "__main__":
    typer.run(main)
