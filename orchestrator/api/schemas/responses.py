"""Responses of the REST API, built from the read models."""

from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, WithJsonSchema

from db.database import Row
from db.domain import AttemptOutcome, Reason, State, Step
from db.fault_profiles import FaultChange
from db.maintenance.audit import INVARIANTS
from db.read_models.latency import LatencyFilter
from db.read_models.order_details import OrderSummary, StoredOrder
from orchestrator.audit import AuditReport
from orchestrator.gateways.fault_injection import named_profile
from orchestrator.messages.ids import order_workflow_id
from orchestrator.rfc3339 import format_rfc3339

_TIME_SCHEMA = WithJsonSchema({"type": "string", "format": "date-time"})

Timestamp = Annotated[datetime, PlainSerializer(format_rfc3339, when_used="json"), _TIME_SCHEMA]

EventTimestamp = Annotated[
    datetime,
    PlainSerializer(lambda time: format_rfc3339(time, "microseconds"), when_used="json"),
    _TIME_SCHEMA,
]
"""In microseconds: events of one order can be less than a millisecond apart."""


class StartResponse(BaseModel):
    workflow_id: str
    order_id: str
    status: Literal["started", "already_started"]
    message: str


class _Order(BaseModel):
    workflow_id: str
    order_id: str
    run_id: str | None
    status: Literal["running", "completed", "failed", "cancelled"]
    state: State
    current_step: Step | None
    reason: Reason | None
    created_at: Timestamp
    updated_at: Timestamp
    deadline_at: Timestamp
    completion_ms: int | None
    within_limit: bool | None


def _order_fields(order: OrderSummary) -> dict[str, Any]:
    return {
        "workflow_id": order_workflow_id(order.order_id),
        "order_id": order.order_id,
        "run_id": order.run_id,
        "status": order.state.value if order.state.is_terminal else "running",
        "state": order.state,
        "current_step": order.current_step,
        "reason": order.reason,
        "created_at": order.accepted_at,
        "updated_at": order.last_event_at,
        "deadline_at": order.deadline_at,
        "completion_ms": order.completion_ms,
        "within_limit": order.within_limit,
    }


class RecentError(BaseModel):
    step: Step
    attempt: int
    outcome: AttemptOutcome
    error: str
    at: Timestamp


class OrderOutcome(BaseModel):
    outcome: State
    tracking: str | None
    amount_cents: int = Field(description="In the minor unit of the currency.")
    currency: str
    completion_ms: int


class AddressResponse(BaseModel):
    street: str
    street2: str
    city: str
    state: str
    zip: str
    country: str


class OrderStatusResponse(_Order):
    completed_steps: list[Step]
    retries: dict[str, int] = Field(description="Failed attempts of each step that had any.")
    recent_errors: list[RecentError] = Field(description="The last ten, oldest first.")
    result: OrderOutcome | None
    error: str | None = Field(description="Why the order was cancelled or failed.")
    address: AddressResponse | None = Field(description="Null while no worker has recorded the order.")
    address_version: int = Field(description="Number of address changes, plus 1.")

    @classmethod
    def of(cls, stored: StoredOrder) -> Self:
        order = stored.summary
        result, error = None, None
        if order.state is State.COMPLETED:
            result = {
                "outcome": order.state,
                "tracking": stored.tracking,
                "amount_cents": order.amount_cents,
                "currency": order.currency,
                "completion_ms": order.completion_ms,
            }
        elif order.state.is_terminal and order.reason is not None:
            error = f"{order.reason}: {stored.abort_message}" if stored.abort_message else order.reason.value
        return cls.model_validate(
            _order_fields(order)
            | {
                "completed_steps": stored.completed_steps,
                "retries": stored.retries,
                "recent_errors": stored.recent_failures,
                "result": result,
                "error": error,
                "address": stored.address and asdict(stored.address),
                "address_version": stored.address_version,
            }
        )


class OrderSummaryResponse(_Order):
    amount_cents: int = Field(description="In the minor unit of the currency.")
    currency: str

    @classmethod
    def of(cls, order: OrderSummary) -> Self:
        money = {"amount_cents": order.amount_cents, "currency": order.currency}
        return cls.model_validate(_order_fields(order) | money)


class OrderListResponse(BaseModel):
    orders: list[OrderSummaryResponse]
    next_cursor: str | None


class EventResponse(BaseModel):
    at: EventTimestamp
    kind: str
    state: State
    step: str | None
    attempt: int | None
    outcome: AttemptOutcome | None
    started_at: EventTimestamp | None
    duration_ms: float | None
    worker: str | None
    detail: dict[str, Any] | None


class HistoryResponse(BaseModel):
    order_id: str
    events: list[EventResponse]


class OrderRequestResponse(BaseModel):
    workflow_id: str
    order_id: str
    accepted: Literal[True] = True
    state: State
    message: str


class Percentiles(BaseModel):
    mean: float
    p50: int
    p90: int
    p95: int
    p99: int
    max: int


class LatencyResponse(BaseModel):
    """Times in milliseconds; null or empty until an order has finished."""

    run_id: str | None
    since: Timestamp | None
    until: Timestamp | None
    count: int = Field(description="Finished and overdue orders: `late` are some of these.")
    late: int = Field(description="Orders with an outcome after their limit, and overdue orders.")
    finished: int = Field(description="Orders with an outcome. The times are those of these orders.")
    open: int = Field(description="Orders without an outcome.")
    overdue: int = Field(description="Open orders past their limit.")
    outcomes: dict[str, int]
    completion_ms: Percentiles | None
    end_to_end_ms: Percentiles | None
    steps_ms: dict[str, Percentiles]

    @classmethod
    def of(cls, summary: Row, selected: LatencyFilter) -> Self:
        parts = dict(summary["parts"] or {})
        return cls(
            run_id=selected.run_id,
            since=selected.since,
            until=selected.until,
            count=summary["finished"] + summary["overdue"],
            late=summary["late"],
            finished=summary["finished"],
            open=summary["open"],
            overdue=summary["overdue"],
            outcomes=summary["outcomes"],
            completion_ms=parts.pop("completion", None),
            end_to_end_ms=parts.pop("end_to_end", None),
            steps_ms=parts,
        )


class RunResponse(BaseModel):
    """A load test. The result is null until the verdict."""

    run_id: str
    label: str | None
    notes: str
    is_baseline: bool
    scenario: str
    fault_profile: str | None
    started_at: Timestamp
    ended_at: Timestamp | None = Field(description="Null while it is in progress, and if it was aborted.")
    verdict: str | None
    exit_code: int | None
    orders: int | None = Field(description="Counted orders: `late` are some of these.")
    late: int | None
    offered_rate: float | None = Field(description="Orders per second.")
    completed_rate: float | None = Field(description="Outcomes per second.")
    p50_ms: float | None
    p99_ms: float | None

    @classmethod
    def of(cls, row: Row) -> Self:
        return cls.model_validate(row | {"orders": row["counted_orders"], "late": row["late_orders"]})


class RunDeletedResponse(BaseModel):
    run_id: str
    message: str


class RunListResponse(BaseModel):
    runs: list[RunResponse]


class InvariantResponse(BaseModel):
    number: int
    text: str
    holds: bool


class ViolationResponse(BaseModel):
    invariant: int
    order_id: str
    finding: str
    evidence: dict[str, Any] = Field(description="The shortest list of facts that shows the violation.")


class AuditResponse(BaseModel):
    run_id: str | None
    clean: bool
    finished: int = Field(description="Orders with an outcome.")
    late: int = Field(description="Orders with an outcome after their limit, and overdue orders.")
    open: int = Field(
        description="Orders without an outcome, or about to be closed by the reconciler: not checked."
    )
    open_orders: list[str]
    overdue: int = Field(description="Open orders past their limit.")
    workflows_checked: int = Field(description="Closed workflows compared with the order database.")
    uncompared: int = Field(
        description="Orders with an outcome but without a closed workflow in Temporal's list: the workflow "
        "still runs, is not listed yet, or was deleted after Temporal's retention."
    )
    without_events: int = Field(
        description="Orders with an outcome whose events were deleted: not checked for invariants 1, 2, 6, 7 "
        "and 9."
    )
    events_since: Timestamp | None = Field(
        description="Orders accepted since this time have all their events; null when none were deleted."
    )
    invariants: list[InvariantResponse]
    violations: list[ViolationResponse]

    @classmethod
    def of(cls, report: AuditReport) -> Self:
        broken = {violation.invariant for violation in report.violations}
        invariants = [
            {"number": number, "text": text, "holds": number not in broken}
            for number, text in INVARIANTS.items()
        ]
        return cls.model_validate(
            asdict(report)
            | {"clean": report.is_clean, "open": len(report.open_orders), "invariants": invariants}
        )


class FaultsResponse(BaseModel):
    profile: str
    seed: int
    rates: dict[str, Any]
    since: Timestamp | None = Field(description="Null until the profile is first set.")
    unavailable: str | None = Field(
        default=None, description="Why the profile has no effect. Null if every gateway is simulated."
    )

    @classmethod
    def of(cls, change: FaultChange | None, unavailable: str | None = None) -> Self:
        """Profile `none` before the first change."""
        if change is None:
            none = named_profile("none")
            active = {"profile": none.name, "seed": none.seed, "rates": none.to_json(), "since": None}
        else:
            active = {
                "profile": change.profile, "seed": change.seed, "rates": change.rates, "since": change.at
            }  # fmt: skip
        return cls.model_validate(active | {"unavailable": unavailable})


class HealthResponse(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    status: Literal["healthy", "unhealthy"]
    timestamp: Timestamp
    temporal_connected: bool
    database_connected: bool
    workers_healthy: bool


class CallerResponse(BaseModel):
    name: str | None
    role: Literal["viewer", "operator", "chaos"]


class ProblemField(BaseModel):
    field: str
    message: str


class Problem(BaseModel):
    """RFC 9457. `errors` names the invalid fields of a 422."""

    type: str
    title: str
    status: int
    detail: str
    errors: list[ProblemField] | None = None
