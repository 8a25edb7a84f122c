"""What takes longer the more orders there are, over an invented history in a database of its own."""

import asyncio
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import psycopg
from psycopg import sql

from db.audit import audit_database
from db.database import Database
from loadtest.bench.measures import Bench, Row
from loadtest.bench.seed import seed
from orchestrator.embedded.migrations import migrate
from orchestrator.settings import Settings

AUDITED_ORDERS = 100_000
AUDIT_ROUNDS = 3


async def audit_sql(bench: Bench) -> list[Row]:
    """The audit without its comparison with Temporal, over everything."""
    with _own_database(bench.settings) as url:
        await asyncio.to_thread(seed, url, AUDITED_ORDERS, progress=_unheard)
        seconds = []
        async with Database(url, application_name="bench") as database:
            for _ in range(AUDIT_ROUNDS):
                began = time.perf_counter()
                audited = await audit_database(database)
                seconds.append(time.perf_counter() - began)
    return [
        Row(
            "orders audited, SQL part",
            f"{audited.judged:,}, {len(audited.violations)} violations",
            "0 violations",
        ),
        Row("the audit's SQL part, median", f"{statistics.median(seconds):.1f} s", "under 5 s"),
    ]


@contextmanager
def _own_database(settings: Settings) -> Iterator[str]:
    """The URL of a migrated database beside the books, which is dropped afterwards."""
    name = f"bench_{uuid4().hex[:8]}"
    url = urlunsplit(urlsplit(settings.order_database_url)._replace(path=f"/{name}"))
    _execute(settings, sql.SQL("create database {}").format(sql.Identifier(name)))
    try:
        migrate(settings.model_copy(update={"database_url": url}))
        yield url
    finally:
        _execute(settings, sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))


def _execute(settings: Settings, statement: sql.Composed) -> None:
    with psycopg.connect(settings.order_database_url, autocommit=True) as connection:
        connection.execute(statement)


def _unheard(_: str) -> None:
    return None
