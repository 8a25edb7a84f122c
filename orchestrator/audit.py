"""The audit: our books, the provider's ledger and Temporal's closed workflows held against each other."""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from temporalio.client import Client, WorkflowExecution, WorkflowExecutionStatus, WorkflowFailureError
from temporalio.exceptions import ApplicationError

from db.audit import INVARIANTS, BooksAudit, Violation, audit_books, known_orders
from db.pool import Books, Row
from orchestrator.client import temporal_errors
from orchestrator.errors import RunUnknown
from orchestrator.vocabulary import (
    DUPLICATE_ORDER,
    INVALID_ORDER,
    ORDER_WORKFLOW_PREFIX,
    OrderResult,
    State,
)

PAGE_SIZE = 200
LISTED_AT_ONCE = 1_000
"""The most that Temporal tells in one answer; each answer costs it some 40 ms beside its rows."""

_NEVER_ORDERS = (DUPLICATE_ORDER, INVALID_ORDER)

CLOCKS_DIFFER = timedelta(minutes=1)
"""How far the clocks of the load generator, PostgreSQL and Temporal may lie apart."""

LONGEST_UNRECORDED_RUN = timedelta(days=1)
"""Orders of a run that nobody recorded are searched this long before the first one that the books know."""

RECONCILER_TIME = timedelta(seconds=10)
"""What the reconciler may take to close an order whose workflow was ended from outside: 3 s until the order
counts as silent, a look a second, and compensation by quick attempts, which at two failures of three seldom
takes 5 s. Until then the order is still open; after that it is left behind."""

ENDINGS_KEPT = 50_000

Ending = tuple[OrderResult | None, str | None]

_endings: OrderedDict[str, Ending] = OrderedDict()
"""How workflow runs have ended, by their run id: the last ones that this process has asked for. It never
changes, and asking is half of an audit's time, so the next audit asks only about those that closed since."""

Progress = Callable[[int], None]
"""Called with the number of workflows checked so far."""


@dataclass(frozen=True)
class AuditReport:
    """The state of the nine invariants. Lateness is counted, not judged. `without_events` of the judged
    orders are older than the events kept, see `db.audit.BooksAudit`."""

    run_id: str | None
    judged: int
    late: int
    open_orders: list[str]
    workflows_checked: int
    violations: list[Violation]
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
            "workflows_checked": self.workflows_checked,
            "without_events": self.without_events,
            "events_since": None if self.events_since is None else self.events_since.isoformat(),
            "invariants": [
                {"number": number, "text": text, "holds": number not in broken}
                for number, text in INVARIANTS.items()
            ],
            "violations": [asdict(violation) for violation in self.violations],
        }


async def audit(
    books: Books,
    client: Client,
    run_id: str | None = None,
    *,
    acknowledged: Iterable[str] = (),
    progress: Progress | None = None,
) -> AuditReport:
    """Audits one run, or everything.

    `acknowledged` are order ids whose start somebody saw accepted, if known. Raises RunUnknown when neither
    the books nor Temporal know anything of the run, and ServiceAway when one of them does not answer.
    """
    books_audit = await audit_books(books, run_id)
    lost = await _lost_starts(books, acknowledged)
    temporal = await _against_temporal(books, client, run_id, books_audit, progress)
    is_known = any((lost, temporal.checked, books_audit.since, books_audit.run_started_at))
    if run_id is not None and not is_known and not await _is_under_way(client, run_id):
        raise RunUnknown(f"there is no run {run_id}: neither the books nor Temporal know an order of it")
    return AuditReport(
        run_id=run_id,
        judged=books_audit.judged,
        late=books_audit.late,
        open_orders=list(dict.fromkeys([*books_audit.open_orders, *temporal.being_closed])),
        workflows_checked=temporal.checked,
        violations=sorted(
            [*books_audit.violations, *lost, *temporal.violations],
            key=lambda each: (each.invariant, each.order_id),
        ),
        without_events=books_audit.without_events,
        events_since=books_audit.events_since,
    )


async def _lost_starts(books: Books, acknowledged: Iterable[str]) -> list[Violation]:
    order_ids = list(acknowledged)
    known = await known_orders(books, order_ids) if order_ids else {}
    return [
        Violation(1, order_id, "a start was acknowledged, and there is no order", {"order_id": order_id})
        for order_id in order_ids
        if order_id not in known
    ]


@dataclass
class _TemporalAudit:
    """What `checked` closed workflows say; the orders `being_closed` are the reconciler's just now."""

    checked: int = 0
    violations: list[Violation] = field(default_factory=list)
    being_closed: list[str] = field(default_factory=list)


async def _against_temporal(
    books: Books, client: Client, run_id: str | None, audited: BooksAudit, progress: Progress | None
) -> _TemporalAudit:
    told = _TemporalAudit()
    query = closed_workflows(run_id, audited.since, audited.run_started_at)
    async for page in _pages(client, query, run_id):
        order_ids = [execution.id.removeprefix(ORDER_WORKFLOW_PREFIX) for execution in page]
        known = await known_orders(books, order_ids)
        found = await asyncio.gather(
            *(
                _compare(client, execution, order_id, known.get(order_id))
                for execution, order_id in zip(page, order_ids, strict=True)
            )
        )
        told.violations += [each for each in found if isinstance(each, Violation)]
        told.being_closed += [each.order_id for each in found if isinstance(each, _BeingClosed)]
        told.checked += len(page)
        if progress is not None:
            progress(told.checked)
    return told


def closed_workflows(run_id: str | None, since: datetime | None, run_started_at: datetime | None) -> str:
    """Temporal's query for the closed order workflows among which those of a run are.

    It reaches back to the start of a run that was recorded, and otherwise far behind the first order that the
    books know of it; over everything when they know none, because then all of them may be lost.
    """
    query = "WorkflowType = 'OrderWorkflow' AND ExecutionStatus != 'Running'"
    if run_id is None:
        return query
    if run_started_at is not None:
        begin = min(run_started_at, since or run_started_at) - CLOCKS_DIFFER
    elif since is not None:
        begin = since - LONGEST_UNRECORDED_RUN
    else:
        return query
    return f"{query} AND StartTime >= '{begin.isoformat()}'"


async def _is_under_way(client: Client, run_id: str) -> bool:
    """Whether an order of the run has started that no worker has taken into the books yet."""
    query = "WorkflowType = 'OrderWorkflow' AND ExecutionStatus = 'Running'"
    async for _ in _pages(client, query, run_id):
        return True
    return False


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
    """An order whose workflow was ended from outside a moment ago: the reconciler is about to close it."""

    order_id: str


async def _compare(
    client: Client, execution: WorkflowExecution, order_id: str, known: Row | None
) -> Violation | _BeingClosed | None:
    """What is wrong between a closed workflow and the books, if anything."""
    result, error_type = await _ending(client, execution)
    if error_type in _NEVER_ORDERS:
        return None
    if _has_just_been_ended(execution) and (known is None or not State(known["state"]).is_terminal):
        return _BeingClosed(order_id)
    status = execution.status.name.lower() if execution.status else "unknown"
    witness: Row = {"workflow": execution.id, "run": execution.run_id, "status": status}
    if known is None:
        return Violation(1, order_id, f"the workflow is {status}, and there is no order", witness)
    state = State(known["state"])
    witness |= {"order": state.value, "reason": known["abort_reason"]}
    if not state.is_terminal:
        return Violation(2, order_id, f"the workflow is {status}, the order is still {state}", witness)
    if known["workflow_run_id"] != execution.run_id:
        return Violation(1, order_id, "a second workflow ran for the order", witness)
    if result is not None and result.outcome is not state:
        witness["workflow_result"] = result.outcome.value
        return Violation(2, order_id, f"the workflow says {result.outcome}, the order {state}", witness)
    return None


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
