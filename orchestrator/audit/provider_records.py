"""Copies the records of real providers into the schema `provider`, for the audit."""

from collections.abc import AsyncIterator
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any

from psycopg.types.json import Jsonb

from db import queries
from db.database import Database
from db.maintenance.audit import first_accepted
from orchestrator.errors import GatewayError, ServiceUnavailable
from orchestrator.gateways.protocols import Gateways
from orchestrator.gateways.registry import gateway_name, open_gateways
from orchestrator.settings import Settings
from orchestrator.settings.gateways import SIMULATED

_SQL = queries.load("provider_ledger.sql")

MAX_CLOCK_SKEW = timedelta(minutes=1)
"""Between the provider and this system."""


async def copy_provider_records(settings: Settings, database: Database, run_id: str | None) -> None:
    """Copy what the providers have recorded since the first order of a run, or of all orders, page by page.

    Raises ServiceUnavailable if a provider does not return its records.
    """
    first = await first_accepted(database, run_id)
    if first is None:
        return
    since = first - MAX_CLOCK_SKEW
    async with open_gateways(settings, database) as gateways:
        for role, statement, records in _sources(gateways, since):
            if gateway_name(settings, role) == SIMULATED:
                continue
            try:
                await _copy(database, statement, records)
            except GatewayError as error:
                raise ServiceUnavailable(
                    f"The {role} gateway does not return its records: {error}"
                ) from error


def _sources(gateways: Gateways, since: datetime) -> list[tuple[str, str, AsyncIterator[Any]]]:
    return [
        ("payment", "copy_entry", gateways.payments.ledger(since)),
        ("warehouse", "copy_package", gateways.warehouse.packages(since)),
        ("carrier", "copy_parcel", gateways.carrier.parcels(since)),
    ]


async def _copy(database: Database, statement: str, records: AsyncIterator[Any]) -> None:
    async for record in records:
        values = asdict(record)
        if "label_address" in values:
            values["label_address"] = Jsonb(values["label_address"])
        await database.execute(_SQL[statement], values)
