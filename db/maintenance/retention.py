"""Retention of events: creates partitions ahead of time, and drops old ones without blocking writers.

Only events are dropped. Orders, payments, shipments, the provider ledger and the rollups stay, so counts,
latencies and balances do not change; only the history of old orders is lost.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
from psycopg import AsyncConnection, sql
from psycopg.rows import dict_row

from db import queries
from db.database import Database, Row
from db.errors import OrderSystemError
from db.sqlstate import translate_errors

_SQL = queries.load("retention.sql")

DETACH_TIMEOUT_MS = 20_000
"""How long a detachment waits for older readers of the partition. It blocks no other session."""

DROP_TIMEOUT_MS = 1_000
DROP_ATTEMPTS = 3
STATEMENT_MARGIN_MS = 5_000
"""The statement timeout exceeds the lock timeout, so that a wait for a lock ends with the lock timeout."""


class RetentionRejected(OrderSystemError):
    """Only the owner of the table events can drop its partitions. Use the URL of the user that migrates."""


@dataclass(frozen=True)
class Partition:
    """The events of [from_at, to_at)."""

    name: str
    from_at: datetime
    to_at: datetime
    bytes: int

    def to_json(self) -> dict[str, Any]:
        return {
            "partition": self.name,
            "from": self.from_at.isoformat(),
            "to": self.to_at.isoformat(),
            "bytes": self.bytes,
        }


@dataclass
class RetentionReport:
    """What was found and done. `held` partitions have events of an order that may still be open; `busy` ones
    are being read. A later call drops both."""

    cutoff: datetime
    expired: list[Partition] = field(default_factory=list)
    dropped: list[Partition] = field(default_factory=list)
    held: list[Partition] = field(default_factory=list)
    busy: list[Partition] = field(default_factory=list)
    oldest_open_at: datetime | None = None
    is_elsewhere: bool = False
    """Another process is dropping partitions, so this call did nothing."""

    def to_json(self) -> dict[str, Any]:
        return {
            "cutoff": self.cutoff.isoformat(),
            "oldest_open_at": None if self.oldest_open_at is None else self.oldest_open_at.isoformat(),
            "is_elsewhere": self.is_elsewhere,
            **{
                name: [partition.to_json() for partition in getattr(self, name)]
                for name in ("expired", "dropped", "held", "busy")
            },
        }


async def ensure_partitions(database: Database) -> int | None:
    """Create the partitions of the next days, and return how many were created.

    Return None when the unbounded partition has rows, and one step of bounding it was done: call again.
    Raises LockTimeout when the table is too busy, and RetentionRejected when the function is missing or not
    allowed.
    """
    try:
        row = await database.fetch_one(_SQL["ensure_partitions"])
    except (psycopg.errors.UndefinedFunction, psycopg.errors.InsufficientPrivilege) as error:
        raise RetentionRejected(str(error).splitlines()[0]) from error
    assert row is not None, "a function returns a row"
    created: int | None = row["created"]
    return created


async def drop_expired(url: str, keep: timedelta, *, dry_run: bool = False) -> RetentionReport:
    """Drop the partitions whose events are all older than `keep` and belong to orders with an outcome.

    With `dry_run`, only report them. Raises RetentionRejected when the user of `url` is not the owner.
    """
    report = RetentionReport(cutoff=datetime.now(UTC) - keep)
    async with _session(url) as connection:
        if not (await _rows(connection, "lock"))[0]["is_locked"]:
            report.is_elsewhere = True
            return report
        if not dry_run:
            await _drop_unfinished(connection, report)
        report.oldest_open_at = (await _rows(connection, "oldest_open_order"))[0]["at"]
        for row in await _rows(connection, "expired", {"cutoff": report.cutoff}):
            partition = Partition(**row)
            if report.oldest_open_at is not None and partition.to_at > report.oldest_open_at:
                report.held.append(partition)
                continue
            report.expired.append(partition)
            if not dry_run:
                await connection.execute(_SQL["decide"], row)
                await _detach(connection, partition, "concurrently", report)
    return report


async def _drop_unfinished(connection: AsyncConnection[Row], report: RetentionReport) -> None:
    """Drop what an earlier call decided to drop and could not."""
    for row in await _rows(connection, "unfinished"):
        # Null when the partition is already detached.
        half_detached = row.pop("half_detached")
        partition = Partition(**row)
        if half_detached is None:
            await _drop(connection, partition, report)
        elif half_detached:
            await _detach(connection, partition, "finalize", report)


async def _detach(
    connection: AsyncConnection[Row], partition: Partition, how: str, report: RetentionReport
) -> None:
    """Detach and drop a partition. When its readers do not finish within DETACH_TIMEOUT_MS, a later call
    finalizes the detachment."""
    statement = sql.SQL("alter table events detach partition {} {}").format(
        sql.Identifier(partition.name), sql.SQL("finalize" if how == "finalize" else "concurrently")
    )
    await _set_timeouts(connection, DETACH_TIMEOUT_MS)
    try:
        await connection.execute(statement)
    except (
        psycopg.errors.QueryCanceled,
        psycopg.errors.LockNotAvailable,
        # Another partition is half detached.
        psycopg.errors.ObjectNotInPrerequisiteState,
    ):
        report.busy.append(partition)
        return
    await _drop(connection, partition, report)


async def _drop(connection: AsyncConnection[Row], partition: Partition, report: RetentionReport) -> None:
    """Drop a detached partition. Only a session that was already reading it can delay that."""
    statement = sql.SQL("drop table if exists {}").format(sql.Identifier(partition.name))
    await _set_timeouts(connection, DROP_TIMEOUT_MS)
    for attempt in range(1, DROP_ATTEMPTS + 1):
        try:
            await connection.execute(statement)
        except (psycopg.errors.LockNotAvailable, psycopg.errors.QueryCanceled):
            if attempt == DROP_ATTEMPTS:
                report.busy.append(partition)
                return
        else:
            break
    await connection.execute(_SQL["done"], {"to_at": partition.to_at})
    report.dropped.append(partition)


@asynccontextmanager
async def _session(url: str) -> AsyncIterator[AsyncConnection[Row]]:
    try:
        with translate_errors():
            async with await AsyncConnection.connect(
                url, autocommit=True, row_factory=dict_row, application_name="retention", connect_timeout=2
            ) as connection:
                yield connection
    except psycopg.errors.InsufficientPrivilege as error:
        raise RetentionRejected from error


async def _set_timeouts(connection: AsyncConnection[Row], lock_timeout_ms: int) -> None:
    statement_timeout_ms = lock_timeout_ms + STATEMENT_MARGIN_MS
    for name, value in (("lock_timeout", lock_timeout_ms), ("statement_timeout", statement_timeout_ms)):
        await connection.execute("select set_config(%s, %s, false)", (name, str(value)))


async def _rows(connection: AsyncConnection[Row], name: str, parameters: Row | None = None) -> list[Row]:
    return await (await connection.execute(_SQL[name], parameters)).fetchall()
