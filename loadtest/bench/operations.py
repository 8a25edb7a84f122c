"""Measurements of operations: the restart of the stack, and the audit of a long history."""

import asyncio
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import uuid4

import psycopg
from psycopg import sql

from db.database import Database
from db.maintenance.audit import audit_database
from loadtest.bench.harness import Bench, Measurement, database_url
from loadtest.bench.seed import seed
from orchestrator.embedded.migrations import migrate
from orchestrator.settings import Settings

ROUNDS = 3
AUDITED_ORDERS = 100_000


async def restart(bench: Bench) -> list[Measurement]:
    """Measure the start of a stopped stack that has data."""
    seconds = []
    for _ in range(ROUNDS):
        await asyncio.to_thread(bench.stack.down)
        began = time.perf_counter()
        await asyncio.to_thread(bench.stack.up)
        seconds.append(time.perf_counter() - began)
    return [
        Measurement(
            "start of a stopped stack with data, median", f"{statistics.median(seconds):.1f} s", "under 10 s"
        )
    ]


async def audit_sql(bench: Bench) -> list[Measurement]:
    """Measure the audit of a seeded history, without its comparison with Temporal."""
    with _temporary_database(bench.settings) as url:
        await asyncio.to_thread(seed, url, AUDITED_ORDERS, progress=lambda _: None)
        seconds = []
        async with Database(url, application_name="bench") as database:
            for _ in range(ROUNDS):
                began = time.perf_counter()
                report = await audit_database(database)
                seconds.append(time.perf_counter() - began)
    return [
        Measurement(
            "orders audited in SQL",
            f"{report.finished:,}, {len(report.violations)} violations",
            "0 violations",
        ),
        Measurement("audit in SQL, median", f"{statistics.median(seconds):.1f} s", "under 5 s"),
    ]


@contextmanager
def _temporary_database(settings: Settings) -> Iterator[str]:
    """Create a migrated database on the server of the order database; drop it at the end."""
    name = f"bench_{uuid4().hex[:8]}"
    url = database_url(settings, name)
    _execute(settings, sql.SQL("create database {}").format(sql.Identifier(name)))
    try:
        migrate(settings.model_copy(update={"database_url": url}))
        yield url
    finally:
        _execute(settings, sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))


def _execute(settings: Settings, statement: sql.Composed) -> None:
    with psycopg.connect(settings.order_database_url, autocommit=True) as connection:
        connection.execute(statement)
