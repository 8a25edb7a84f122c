"""Runs the audit and reports the nine invariants."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from temporalio.client import Client

from db.database import Database
from db.maintenance.audit import Violation, audit_database, known_orders
from orchestrator.audit.temporal_comparison import TemporalComparison
from orchestrator.errors import RunUnknown
from orchestrator.temporal.client import temporal_namespace


@dataclass(frozen=True)
class AuditReport:
    """`finished` orders have an outcome; `open_orders` do not, and `overdue` of these are past their limit.

    `uncompared` of the finished orders of this Temporal namespace had no closed workflow in its list.
    `without_events` of the finished orders were accepted before `events_since`. `late` orders are
    counted, and are no violation.
    """

    run_id: str | None
    finished: int
    late: int
    open_orders: list[str]
    workflows_checked: int
    violations: list[Violation]
    overdue: int = 0
    uncompared: int = 0
    without_events: int = 0
    events_since: datetime | None = None

    @property
    def is_clean(self) -> bool:
        return not self.violations


async def audit(
    database: Database,
    client: Client,
    run_id: str | None = None,
    *,
    acknowledged: Iterable[str] = (),
    task_queue: str | None = None,
) -> AuditReport:
    """Audit one run, or all orders.

    With `task_queue`, an audit of all orders leaves out workflows of other task queues. `acknowledged` are
    ids of orders whose start was acknowledged to a client. Raises RunUnknown when neither the database nor
    Temporal has an order of the run, and ServiceUnavailable.
    """
    database_audit = await audit_database(database, run_id, await temporal_namespace(client))
    lost = await _lost_starts(database, acknowledged)
    temporal = TemporalComparison(database, client, run_id, database_audit, task_queue)
    await temporal.run()
    is_known = any(
        (lost, temporal.checked, temporal.running, database_audit.since, database_audit.run_started_at)
    )
    if run_id is not None and not is_known:
        raise RunUnknown(f"there is no run {run_id}: neither the database nor Temporal has an order of it")
    return AuditReport(
        run_id=run_id,
        finished=database_audit.finished,
        late=database_audit.late,
        open_orders=list(dict.fromkeys([*database_audit.open_orders, *temporal.in_reconciliation])),
        workflows_checked=temporal.checked,
        violations=sorted(
            [*database_audit.violations, *lost, *temporal.violations],
            key=lambda each: (each.invariant, each.order_id),
        ),
        overdue=database_audit.overdue,
        uncompared=max(database_audit.finished - database_audit.finished_elsewhere - temporal.compared, 0),
        without_events=database_audit.without_events,
        events_since=database_audit.events_since,
    )


async def _lost_starts(database: Database, acknowledged: Iterable[str]) -> list[Violation]:
    order_ids = list(acknowledged)
    known = await known_orders(database, order_ids) if order_ids else {}
    return [
        Violation(1, order_id, "a start was acknowledged, and there is no order", {"order_id": order_id})
        for order_id in order_ids
        if order_id not in known
    ]
