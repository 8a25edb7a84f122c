"""Responses of the REST API, for the OpenAPI document.

`rendering` builds responses as plain dictionaries, which FastAPI does not validate again. Tests compare the two.
"""

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, Field

from db.domain import AttemptOutcome, Reason, State, Step

Status = Literal["running", "completed", "failed", "cancelled"]


class StartResponse(BaseModel):
    workflow_id: str
    order_id: str
    status: Literal["started", "already_started"]
    message: str


class RecentError(BaseModel):
    step: Step
    attempt: int
    outcome: AttemptOutcome
    error: str
    at: datetime


class OrderOutcome(BaseModel):
    outcome: State
    tracking: str | None
    amount_cents: int
    completion_ms: int


class _Order(BaseModel):
    workflow_id: str
    order_id: str
    run_id: str | None
    status: Status
    state: State
    current_step: Step | None
    reason: Reason | None
    created_at: datetime
    updated_at: datetime
    deadline_at: datetime
    completion_ms: int | None
    within_limit: bool | None


class OrderStatusResponse(_Order):
    completed_steps: list[Step]
    retries: dict[str, int] = Field(description="Failed attempts of each step that had any.")
    recent_errors: list[RecentError] = Field(description="The last ten, oldest first.")
    result: OrderOutcome | None
    error: str | None = Field(description="Why the order was cancelled or failed.")


class OrderSummaryResponse(_Order):
    amount_cents: int


class OrderListResponse(BaseModel):
    orders: list[OrderSummaryResponse]
    next_cursor: str | None


class EventResponse(BaseModel):
    at: datetime
    kind: str
    state: State
    step: str | None
    attempt: int | None
    outcome: AttemptOutcome | None
    started_at: datetime | None
    duration_ms: float | None
    worker: str | None
    detail: dict[str, Any] | None


class HistoryResponse(BaseModel):
    order_id: str
    events: list[EventResponse]


class OrderRequestResponse(BaseModel):
    workflow_id: str
    order_id: str
    accepted: Literal[True]
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
    since: datetime | None
    until: datetime | None
    count: int = Field(description="Orders with an outcome.")
    late: int = Field(description="Orders with an outcome after their deadline.")
    open: int = Field(description="Orders without an outcome.")
    overdue: int = Field(description="Open orders past their deadline.")
    outcomes: dict[str, int]
    completion_ms: Percentiles | None
    end_to_end_ms: Percentiles | None
    steps_ms: dict[str, Percentiles]


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
    judged: int = Field(description="Orders with an outcome.")
    late: int
    open: int = Field(
        description="Orders without an outcome, or about to be closed by the reconciler: not checked."
    )
    open_orders: list[str]
    overdue: int = Field(description="Open orders past their deadline.")
    workflows_checked: int = Field(description="Closed workflows compared with the order database.")
    uncompared: int = Field(
        description="Orders with an outcome but without a closed workflow in Temporal's list: the workflow still "
        "runs, is not listed yet, or was deleted after Temporal's retention."
    )
    without_events: int = Field(
        description="Orders with an outcome whose events were dropped: not checked for invariants 1, 2, 6, 7 and 9."
    )
    events_since: datetime | None = Field(
        description="Orders accepted since this time have all their events; null when none were dropped."
    )
    invariants: list[InvariantResponse]
    violations: list[ViolationResponse]


class FaultsResponse(BaseModel):
    profile: str
    seed: int
    rates: dict[str, Any]
    since: datetime | None = Field(description="Null until the profile is first set.")


class FaultHistoryResponse(BaseModel):
    changes: list[FaultsResponse]


class HealthResponse(BaseModel):
    status: Literal["healthy", "unhealthy"]
    timestamp: datetime
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
