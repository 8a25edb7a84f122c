"""Stored data of the reconciler: stale orders, the lease of its leader, and its stop."""

from dataclasses import asdict, dataclass
from datetime import datetime, timedelta

from db import queries
from db.database import Database, Row
from db.domain import TemporalNamespace

_SQL = queries.load("reconciliation.sql")

CONFIRMED_FOR = timedelta(minutes=10)
"""How long after `resume` or `adopt` the reconciler may close all orders that were orphaned at that time."""


@dataclass(frozen=True)
class StaleOrder:
    """An open order without recent events: its workflow may be lost."""

    order_id: str
    run_id: str | None
    deadline_at: datetime
    last_event_at: datetime


@dataclass(frozen=True)
class Lease:
    """The lease of the leader. `orphans` and `orphan_examples` are set while the reconciler is stopped.
    Orders without an event since `confirmed_before` may be closed in any number."""

    stopped_at: datetime | None
    orphans: int | None
    orphan_examples: list[str] | None
    confirmed_before: datetime | None


@dataclass(frozen=True)
class ReconcilerState:
    """The reconciler of one Temporal namespace, and the number of its open orders."""

    cluster_id: str
    namespace: str
    leader: str | None
    leader_until: datetime | None
    has_leader: bool
    stopped_at: datetime | None
    orphans: int | None
    orphan_examples: list[str] | None
    open_orders: int

    def to_json(self) -> Row:
        return {
            name: value.isoformat() if isinstance(value, datetime) else value
            for name, value in asdict(self).items()
        }

    @property
    def temporal(self) -> TemporalNamespace:
        return TemporalNamespace(self.cluster_id, self.namespace)


class Reconciliation:
    """The orders of one Temporal namespace that one worker may reconcile. Raises DatabaseError."""

    def __init__(self, database: Database, temporal: TemporalNamespace, leader: str) -> None:
        self._database = database
        self._parameters: Row = {
            "cluster_id": temporal.cluster_id, "namespace": temporal.name, "leader": leader,
        }  # fmt: skip

    async def take_lease(self, duration: timedelta) -> Lease | None:
        """Become or stay the leader for `duration`. Return None while another worker is the leader.

        A row with an expiry, not an advisory lock: PgBouncer in transaction mode does not keep session locks.
        """
        row = await self._fetch_one("take_lease", lease=duration, confirmed_for=CONFIRMED_FOR)
        return None if row is None else Lease(**row)

    async def stale_orders(
        self, quiet: timedelta, *, after: StaleOrder | None = None, limit: int
    ) -> list[StaleOrder]:
        """Return a page of open orders without an event for `quiet`, earliest deadline first. `after` is the
        last order of the previous page; a page with fewer than `limit` orders is the last one."""
        parameters = {
            "quiet": quiet,
            "after_deadline_at": after.deadline_at if after else None,
            "after_order_id": after.order_id if after else None,
            "limit": limit,
        }
        rows = await self._database.fetch_all(_SQL["stale_orders"], parameters | self._parameters)
        return [StaleOrder(**row) for row in rows]

    async def confirm_orphan(self, order_id: str, last_event_at: datetime | None) -> bool | None:
        """Return whether the order is unchanged since `last_event_at` (None: whether it is still not
        inserted).

        Return None if this worker is not the leader any more, or the reconciler is stopped.
        """
        row = await self._fetch_one("confirm_orphan", order_id=order_id, last_event_at=last_event_at)
        return None if row is None else row["is_unchanged"]

    async def stop(self, order_ids: list[str], examples: int = 5) -> None:
        """Stop the reconciler until `resume`, because it found these orphaned orders."""
        found = {"orphans": len(order_ids), "examples": order_ids[:examples]}
        await self._database.execute(_SQL["stop"], found | self._parameters)

    async def _fetch_one(self, name: str, **parameters: object) -> Row | None:
        return await self._database.fetch_one(_SQL[name], parameters | self._parameters)


async def database_id(database: Database) -> str:
    """Return the identity of the order database."""
    row = await database.fetch_one(_SQL["database_id"])
    assert row is not None, "the migration inserts it"
    return str(row["database_id"])


async def register(database: Database, temporal: TemporalNamespace) -> None:
    """Create the row of the namespace's reconciler, unless it exists."""
    parameters = {"cluster_id": temporal.cluster_id, "namespace": temporal.name}
    await database.execute(_SQL["register"], parameters)


async def reconcilers(database: Database) -> list[ReconcilerState]:
    """Return the reconciler of every Temporal namespace that has used this database."""
    return [ReconcilerState(**row) for row in await database.fetch_all(_SQL["reconcilers"])]


async def resume(database: Database) -> list[TemporalNamespace]:
    """Let the stopped reconcilers continue, and return their namespaces."""
    rows = await database.fetch_all(_SQL["resume"])
    return [TemporalNamespace(row["cluster_id"], row["namespace"]) for row in rows]


async def adopt(database: Database, lost: TemporalNamespace, by: TemporalNamespace) -> int:
    """Move the open orders of a lost Temporal namespace to another one; return how many. Moves none while a
    worker reconciles the orders of `lost`."""
    row = await database.fetch_one(
        _SQL["adopt"],
        {
            "from_cluster_id": lost.cluster_id, "from_namespace": lost.name,
            "cluster_id": by.cluster_id, "namespace": by.name,
        },
    )  # fmt: skip
    assert row is not None, "an aggregate returns a row"
    orders: int = row["orders"]
    return orders
