"""How long events are kept: partitions ahead of time, and old ones dropped without holding anybody up.

Only events go. Orders, payments, shipments, the provider's ledger and the rollups stay, so no figure and no
balance changes; what is lost is the story of each old order.
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

DETACH_PATIENCE_MS = 20_000
"""How long a detachment waits for readers that began before it. Nobody waits for the detachment."""

DROP_PATIENCE_MS = 1_000
DROP_TRIES = 3
STATEMENT_SPARE_MS = 5_000
"""So much longer than for its locks a statement may take, so that one that waits for a lock ends of that."""


class RetentionRejected(OrderSystemError):
    """Only the owner of the table events may drop its partitions; use the URL of the user who migrates."""


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
    """What a look found and did. `held` are old enough, and wait for an order that is still open; `busy`
    are being read, and go with the next look."""

    cutoff: datetime
    expired: list[Partition] = field(default_factory=list)
    dropped: list[Partition] = field(default_factory=list)
    held: list[Partition] = field(default_factory=list)
    busy: list[Partition] = field(default_factory=list)
    oldest_open_at: datetime | None = None
    is_elsewhere: bool = False
    """Whether another process was at it: then nothing was done."""

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
    """Makes the partitions of the days ahead, and returns how many; None when the open partition had filled
    up, and one step was done towards its end: the next call does the next.

    Raises DatabaseUnavailable, also when the table is too busy to be locked just now, and RetentionRejected where the
    migrations are not applied or this user may not.
    """
    try:
        row = await database.fetch_one(_SQL["ensure_partitions"])
    except (psycopg.errors.UndefinedFunction, psycopg.errors.InsufficientPrivilege) as error:
        raise RetentionRejected(str(error).splitlines()[0]) from error
    assert row is not None, "a function gives a row"
    made: int | None = row["made"]
    return made


async def drop_expired(url: str, keep: timedelta, *, dry_run: bool = False) -> RetentionReport:
    """Drops the partitions whose every event is older than `keep`, and belongs to an order with an outcome.

    With `dry_run` only says which. Raises DatabaseUnavailable, and RetentionRejected when `url` is not the owner's.
    """
    report = RetentionReport(cutoff=datetime.now(UTC) - keep)
    async with _session(url) as connection:
        if not (await _rows(connection, "begin"))[0]["is_ours"]:
            report.is_elsewhere = True
            return report
        if not dry_run:
            await _finish_earlier_looks(connection, report)
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


async def _finish_earlier_looks(connection: AsyncConnection[Row], report: RetentionReport) -> None:
    for row in await _rows(connection, "unfinished"):
        # Null where nothing is attached any more.
        half_detached = row.pop("half_detached")
        partition = Partition(**row)
        if half_detached is None:
            await _drop(connection, partition, report)
        elif half_detached:
            await _detach(connection, partition, "finalize", report)


async def _detach(
    connection: AsyncConnection[Row], partition: Partition, how: str, report: RetentionReport
) -> None:
    """Detaches and drops. While it waits for those who read the partition, everybody else reads and writes
    on; after DETACH_PATIENCE_MS it is left for the next look, which ends what was begun."""
    statement = sql.SQL("alter table events detach partition {} {}").format(
        sql.Identifier(partition.name), sql.SQL("finalize" if how == "finalize" else "concurrently")
    )
    await _wait_for_locks(connection, DETACH_PATIENCE_MS)
    try:
        await connection.execute(statement)
    except (
        psycopg.errors.QueryCanceled,
        psycopg.errors.LockNotAvailable,
        # Another partition is half detached, held up by its readers.
        psycopg.errors.ObjectNotInPrerequisiteState,
    ):
        report.busy.append(partition)
        return
    await _drop(connection, partition, report)


async def _drop(connection: AsyncConnection[Row], partition: Partition, report: RetentionReport) -> None:
    """Nobody finds the detached partition any more; only who was reading it may hold it for a moment."""
    statement = sql.SQL("drop table if exists {}").format(sql.Identifier(partition.name))
    await _wait_for_locks(connection, DROP_PATIENCE_MS)
    for last_try in (*[False] * (DROP_TRIES - 1), True):
        try:
            await connection.execute(statement)
        except (psycopg.errors.LockNotAvailable, psycopg.errors.QueryCanceled):
            if last_try:
                report.busy.append(partition)
                return
        else:
            break
    await connection.execute(_SQL["done"], {"to_at": partition.to_at})
    report.dropped.append(partition)


@asynccontextmanager
async def _session(url: str) -> AsyncIterator[AsyncConnection[Row]]:
    with translate_errors():
        connection = await AsyncConnection.connect(
            url, autocommit=True, row_factory=dict_row, application_name="retention", connect_timeout=2
        )
    try:
        with translate_errors():
            async with connection:
                yield connection
    except psycopg.errors.InsufficientPrivilege as error:
        raise RetentionRejected from error


async def _wait_for_locks(connection: AsyncConnection[Row], ms: int) -> None:
    for name, patience_ms in (("lock_timeout", ms), ("statement_timeout", ms + STATEMENT_SPARE_MS)):
        await connection.execute("select set_config(%s, %s, false)", (name, str(patience_ms)))


async def _rows(connection: AsyncConnection[Row], name: str, parameters: Row | None = None) -> list[Row]:
    return await (await connection.execute(_SQL[name], parameters)).fetchall()
