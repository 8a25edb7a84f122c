"""A carrier that keeps its parcels in a SQLite file: an example of a gateway in a package of its own."""

import asyncio
import json
import os
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

from db.domain import Address
from orchestrator.errors import GatewayDeclined, GatewayError
from orchestrator.gateways.protocols import Guarantees, ParcelRecord
from orchestrator.gateways.registry import Context, Provider
from orchestrator.settings.gateways import CallPolicy

SCHEMA = """create table if not exists parcels (
    key text primary key, order_id text, version int, address text, dispatched_at text, recalled_at text)"""

# A repeated dispatch replaces an older label, and has no effect on a recalled parcel.
DISPATCH = """insert into parcels values (:key, :order, :version, :address, :now, null)
    on conflict (key) do update set version = excluded.version, address = excluded.address
    where version < excluded.version and recalled_at is null"""

# A recall before the dispatch voids the key.
RECALL = """insert into parcels (key, order_id, recalled_at) values (:key, :order, :now)
    on conflict (key) do update set recalled_at = coalesce(recalled_at, excluded.recalled_at)"""


class SqliteCarrier:
    guarantees = Guarantees(idempotency_key=True, void=True, replaceable_label=True)

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    async def check_address(self, order_id: str, address: Address) -> None:
        if address.country != "US":
            raise GatewayDeclined(f"no delivery to {address.country}")

    async def dispatch(self, shipment_key: str, order_id: str, address: Address, label_version: int) -> str:
        label = {"version": label_version, "address": json.dumps(address.to_json())}
        await self._execute(DISPATCH, key=shipment_key, order=order_id, **label)
        ((recalled_at,),) = await self._execute(
            "select recalled_at from parcels where key = :key", key=shipment_key
        )
        if recalled_at is not None:
            raise GatewayDeclined("the shipment was cancelled")
        return f"SQLITE-{shipment_key}"

    async def cancel_shipment(self, shipment_key: str, order_id: str) -> None:
        await self._execute(RECALL, key=shipment_key, order=order_id)

    async def parcels(self, since: datetime) -> AsyncIterator[ParcelRecord]:
        changed = "select * from parcels where dispatched_at >= :since or recalled_at >= :since"
        for key, order_id, version, address, *times in await self._execute(changed, since=since.isoformat()):
            dispatched_at, recalled_at = (time and datetime.fromisoformat(time) for time in times)
            label = None if address is None else json.loads(address)
            yield ParcelRecord(key, order_id, version, label, f"SQLITE-{key}", dispatched_at, recalled_at)

    async def _execute(self, statement: str, **values: Any) -> list[tuple[Any, ...]]:
        values["now"] = datetime.now(UTC).isoformat()
        try:
            return await asyncio.to_thread(lambda: self._connection.execute(statement, values).fetchall())
        except sqlite3.OperationalError as error:
            raise GatewayError(f"the carrier's file is not available: {error}") from error


@asynccontextmanager
async def opened(_context: Context) -> AsyncIterator[SqliteCarrier]:
    path = os.environ.get("SQLITE_CARRIER_FILE", "parcels.sqlite")
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.execute(SCHEMA)
    yield SqliteCarrier(connection)
    connection.close()


PROVIDER = Provider(carrier=opened, calls=CallPolicy(timeout=0.5, need=0.8, compensation=3))
