"""The audit: our books, the provider's ledger and Temporal's closed workflows held against each other."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from temporalio.client import Client, WorkflowExecution, WorkflowExecutionStatus, WorkflowFailureError
from temporalio.exceptions import ApplicationError

from db.audit import INVARIANTS, DatabaseAudit, Violation, audit_database, known_orders
from db.database import Database, Row
from db.domain import State
from orchestrator.errors import PayloadUnreadable, RunUnknown
from orchestrator.messages import NOT_AN_ORDER, OrderResult
from orchestrator.temporal_client import temporal_errors
from orchestrator.workflow_ids import ORDER_WORKFLOW_PREFIX, order_workflow_id, reconcile_workflow_id
from orchestrator.workflow_lookup import is_running, started_order

PAGE_SIZE = 200
LISTED_AT_ONCE = 1_000
"""The most that Temporal tells in one answer; each answer costs it some 40 ms beside its rows."""

CLOCKS_DIFFER = timedelta(minutes=1)
"""How far the clocks of the load generator, PostgreSQL and Temporal may lie apart."""

LONGEST_UNRECORDED_RUN = timedelta(days=1)
"""Orders of a run that nobody recorded are searched this long before the first one that the books know."""

RECONCILER_TIME = timedelta(seconds=10)
"""What the reconciler may take to find an order whose workflow was ended from outside: 3 s until the order
counts as silent, a look a second, and as much again. Until then the order is still open, and so it is while
its reconciling workflow runs; else it is left behind."""

CLOSING_TIME = timedelta(seconds=10)
"""What a workflow may take to close once its order has the outcome: even when its worker dies between the
two, another one takes it over within 5 s."""

LISTING_SECONDS = 5.0
"""How long an audit of a run waits for Temporal's list to show the workflows of its orders as closed."""

LIST_AGAIN_SECONDS = 0.25

LISTED_BY_NOW = timedelta(minutes=1)
"""What closed longer ago and is not in Temporal's list has been forgotten by it: nothing to wait for."""

ENDINGS_KEPT = 50_000

Ending = tuple[OrderResult | None, str | None]

_endings: OrderedDict[str, Ending] = OrderedDict()
"""How workflow runs have ended, by their run id: the last ones that this process has asked for. It never
changes, and asking is half of an audit's time, so the next audit asks only about those that closed since."""

Progress = Callable[[int], None]
"""Called with the number of workflows checked so far."""


@dataclass(frozen=True)
class AuditReport:
    """The state of the nine invariants. Lateness is counted, not judged.

    `overdue` of the open orders are past their deadline. `uncompared` of the judged orders had no closed
    workflow in Temporal's list. `without_events` of them are older than the events kept, see
    `db.audit.DatabaseAudit`.
    """

    run_id: str | None
    judged: int
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

    def to_json(self) -> dict[str, Any]:
        broken = {violation.invariant for violation in self.violations}
        return {
            "run_id": self.run_id,
            "clean": self.is_clean,
            "judged": self.judged,
            "late": self.late,
            "open": len(self.open_orders),
            "open_orders": self.open_orders,
            "overdue": self.overdue,
            "workflows_checked": self.workflows_checked,
            "uncompared": self.uncompared,
            "without_events": self.without_events,
            "events_since": None if self.events_since is None else self.events_since.isoformat(),
            "invariants": [
                {"number": number, "text": text, "holds": number not in broken}
                for number, text in INVARIANTS.items()
            ],
            "violations": [asdict(violation) for violation in self.violations],
        }


async def audit(
    database: Database,
    client: Client,
    run_id: str | None = None,
    *,
    acknowledged: Iterable[str] = (),
    progress: Progress | None = None,
) -> AuditReport:
    """Audits one run, or everything.

    `acknowledged` are order ids whose start somebody saw accepted, if known. Raises RunUnknown when neither
    the books nor Temporal know anything of the run, and ServiceUnavailable when one of them does not answer.
    """
    database_audit = await audit_database(database, run_id)
    lost = await _lost_starts(database, acknowledged)
    temporal = await _against_temporal(database, client, run_id, database_audit, progress)
    is_known = any(
        (lost, temporal.checked, temporal.running, database_audit.since, database_audit.run_started_at)
    )
    if run_id is not None and not is_known:
        raise RunUnknown(f"there is no run {run_id}: neither the books nor Temporal know an order of it")
    return AuditReport(
        run_id=run_id,
        judged=database_audit.judged,
        late=database_audit.late,
        open_orders=list(dict.fromkeys([*database_audit.open_orders, *temporal.being_closed])),
        workflows_checked=temporal.checked,
        violations=sorted(
            [*database_audit.violations, *lost, *temporal.violations],
            key=lambda each: (each.invariant, each.order_id),
        ),
        overdue=database_audit.overdue,
        uncompared=max(database_audit.judged - temporal.compared, 0),
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


@dataclass
class _TemporalAudit:
    """What `checked` closed workflows say, those of `compared` judged orders among them, and `running` ones.

    The orders `being_closed` are in somebody's hands just now. `seen` are the closed runs looked at so far,
    where the list is gone through again.
    """

    checked: int = 0
    compared: int = 0
    running: int = 0
    violations: list[Violation] = field(default_factory=list)
    being_closed: list[str] = field(default_factory=list)
    seen: set[str] = field(default_factory=set)


async def _against_temporal(
    database: Database, client: Client, run_id: str | None, audited: DatabaseAudit, progress: Progress | None
) -> _TemporalAudit:
    told = _TemporalAudit()
    not_after = time.monotonic() + LISTING_SECONDS
    while True:
        await _compare_closed(told, database, client, run_id, audited, progress)
        is_listed = told.compared >= audited.judged or not _finished_lately(audited)
        if run_id is None or is_listed or time.monotonic() >= not_after:
            break
        await asyncio.sleep(LIST_AGAIN_SECONDS)
    await _compare_running(told, database, client, run_id, audited)
    return told


def _finished_lately(audited: DatabaseAudit) -> bool:
    last = audited.last_finished_at
    return last is not None and audited.looked_at - last < LISTED_BY_NOW


async def _compare_closed(
    told: _TemporalAudit,
    database: Database,
    client: Client,
    run_id: str | None,
    audited: DatabaseAudit,
    progress: Progress | None,
) -> None:
    query = closed_workflows(run_id, audited.since, audited.run_started_at)
    async for listed in _pages(client, query, run_id):
        page = [execution for execution in listed if execution.run_id not in told.seen]
        order_ids = [execution.id.removeprefix(ORDER_WORKFLOW_PREFIX) for execution in page]
        known = await known_orders(database, order_ids)
        found = await asyncio.gather(
            *(
                _compare(database, client, execution, order_id, known.get(order_id))
                for execution, order_id in zip(page, order_ids, strict=True)
            )
        )
        told.violations += [each for each in found if isinstance(each, Violation)]
        told.being_closed += [each.order_id for each in found if isinstance(each, _BeingClosed)]
        told.checked += len(page)
        told.compared += sum(
            _is_judged_by(execution, known.get(order_id), audited)
            for execution, order_id in zip(page, order_ids, strict=True)
        )
        if run_id is not None:
            # Over everything the list is gone through once, and is too long to be kept.
            told.seen |= {execution.run_id for execution in page}
        if progress is not None:
            progress(told.checked)


def _is_judged_by(execution: WorkflowExecution, known: Row | None, audited: DatabaseAudit) -> bool:
    """Whether the workflow is the own one of an order that had its outcome when the books were looked at."""
    if known is None or known["workflow_run_id"] != execution.run_id or known["finished_at"] is None:
        return False
    is_judged: bool = known["finished_at"] <= audited.looked_at
    return is_judged


async def _compare_running(
    told: _TemporalAudit, database: Database, client: Client, run_id: str | None, audited: DatabaseAudit
) -> None:
    """Finds orders that have had their outcome for long while their workflow still runs."""
    query = running_workflows(run_id, audited.since, audited.run_started_at)
    async for page in _pages(client, query, run_id):
        told.running += len(page)
        order_ids = [execution.id.removeprefix(ORDER_WORKFLOW_PREFIX) for execution in page]
        known = await known_orders(database, order_ids)
        for execution, order_id in zip(page, order_ids, strict=True):
            order = known.get(order_id)
            if order is None or not _should_have_closed(execution, order, audited):
                continue
            # The list may be behind.
            if await is_running(client, execution.id):
                told.violations.append(_still_running(execution, order))


def _should_have_closed(execution: WorkflowExecution, order: Row, audited: DatabaseAudit) -> bool:
    is_own_and_finished = order["workflow_run_id"] == execution.run_id and order["finished_at"] is not None
    return is_own_and_finished and audited.looked_at - order["finished_at"] > CLOSING_TIME


def _still_running(execution: WorkflowExecution, order: Row) -> Violation:
    witness: Row = {
        "workflow": execution.id,
        "run": execution.run_id,
        "status": "running",
        "order": order["state"],
        "reason": order["abort_reason"],
        "finished_at": order["finished_at"].isoformat(),
    }
    return Violation(2, order["order_id"], f"the order is {order['state']}, its workflow still runs", witness)


def closed_workflows(run_id: str | None, since: datetime | None, run_started_at: datetime | None) -> str:
    """Temporal's query for the closed order workflows among which those of a run are.

    It reaches back to the start of a run that was recorded, and otherwise far behind the first order that the
    books know of it; over everything when they know none, because then all of them may be lost.
    """
    return _order_workflows("!=", run_id, since, run_started_at)


def running_workflows(run_id: str | None, since: datetime | None, run_started_at: datetime | None) -> str:
    """The same for those that run."""
    return _order_workflows("=", run_id, since, run_started_at)


def _order_workflows(
    running: str, run_id: str | None, since: datetime | None, run_started_at: datetime | None
) -> str:
    query = f"WorkflowType = 'OrderWorkflow' AND ExecutionStatus {running} 'Running'"
    if run_id is None:
        return query
    if run_started_at is not None:
        begin = min(run_started_at, since or run_started_at) - CLOCKS_DIFFER
    elif since is not None:
        begin = since - LONGEST_UNRECORDED_RUN
    else:
        return query
    return f"{query} AND StartTime >= '{begin.isoformat()}'"


async def _pages(client: Client, query: str, run_id: str | None) -> AsyncIterator[list[WorkflowExecution]]:
    """Pages of workflows, of one run (told by the memo) or all."""
    page: list[WorkflowExecution] = []
    with temporal_errors():
        async for execution in client.list_workflows(query, page_size=LISTED_AT_ONCE):
            if run_id is not None and await execution.memo_value("run_id", None) != run_id:
                continue
            page.append(execution)
            if len(page) == PAGE_SIZE:
                yield page
                page = []
    if page:
        yield page


@dataclass(frozen=True)
class _BeingClosed:
    """An order whose workflow was ended from outside, and which is in good hands: about to be closed by the
    reconciler, or going on in a later run of a workflow that was reset."""

    order_id: str


async def _compare(
    database: Database, client: Client, execution: WorkflowExecution, order_id: str, known: Row | None
) -> Violation | _BeingClosed | None:
    """What is wrong between a closed workflow and the books, if anything."""
    result, error_type = await _ending(client, execution)
    if error_type in NOT_AN_ORDER:
        return None
    accepted_in = execution.run_id
    if known is None or known["workflow_run_id"] != execution.run_id:
        first_run_id = await _first_run_id(client, execution)
        if first_run_id is None:
            return None
        accepted_in = first_run_id
    if not _is_closed_in(known):
        if _has_just_been_ended(execution) or await _is_in_good_hands(client, order_id):
            return _BeingClosed(order_id)
        # Those hands may have let go of it since the books were asked.
        known = (await known_orders(database, [order_id])).get(order_id)
    status = execution.status.name.lower() if execution.status else "unknown"
    witness: Row = {"workflow": execution.id, "run": execution.run_id, "status": status}
    if known is None:
        return Violation(1, order_id, f"the workflow is {status}, and there is no order", witness)
    state = State(known["state"])
    witness |= {"order": state.value, "reason": known["abort_reason"]}
    if not state.is_terminal:
        return Violation(2, order_id, f"the workflow is {status}, the order is still {state}", witness)
    if known["workflow_run_id"] not in (execution.run_id, accepted_in):
        return Violation(1, order_id, "a second workflow ran for the order", witness)
    if result is not None and result.outcome is not state:
        witness["workflow_result"] = result.outcome.value
        return Violation(2, order_id, f"the workflow says {result.outcome}, the order {state}", witness)
    if result is not None and result.reason != known["abort_reason"]:
        witness["workflow_reason"] = result.reason
        finding = f"the workflow ended for {result.reason}, the order for {known['abort_reason']}"
        return Violation(2, order_id, finding, witness)
    return None


def _is_closed_in(known: Row | None) -> bool:
    return known is not None and State(known["state"]).is_terminal


async def _first_run_id(client: Client, execution: WorkflowExecution) -> str | None:
    """The run in which the order of a closed workflow was accepted; None when it never was an order."""
    try:
        started = await started_order(client, execution)
    except PayloadUnreadable:
        # Whether it was one only the key tells: the workflow is judged as if it were.
        return execution.run_id
    return None if started is None else started.first_run_id


async def _is_in_good_hands(client: Client, order_id: str) -> bool:
    """Whether the order's reconciling workflow runs, or a later run of its own."""
    workflow_ids = (reconcile_workflow_id(order_id), order_workflow_id(order_id))
    return any([await is_running(client, workflow_id) for workflow_id in workflow_ids])


def _has_just_been_ended(execution: WorkflowExecution) -> bool:
    """Whether the workflow, by its own words, did not complete, and the reconciler may still be at work."""
    if execution.status is WorkflowExecutionStatus.COMPLETED or execution.close_time is None:
        return False
    return datetime.now(UTC) - execution.close_time < RECONCILER_TIME


async def _ending(client: Client, execution: WorkflowExecution) -> Ending:
    """What a closed workflow returned, or the type of the error with which it failed."""
    if execution.status not in (WorkflowExecutionStatus.COMPLETED, WorkflowExecutionStatus.FAILED):
        return None, None
    known = _endings.get(execution.run_id)
    if known is None:
        known = _endings[execution.run_id] = await _asked_ending(client, execution)
        if len(_endings) > ENDINGS_KEPT:
            _endings.popitem(last=False)
    return known


async def _asked_ending(client: Client, execution: WorkflowExecution) -> Ending:
    handle = client.get_workflow_handle(execution.id, run_id=execution.run_id, result_type=OrderResult)
    try:
        with temporal_errors():
            return await handle.result(), None
    except WorkflowFailureError as error:
        cause = error.cause
        return None, cause.type if isinstance(cause, ApplicationError) else None
