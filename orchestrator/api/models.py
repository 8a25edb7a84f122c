"""What the API takes and gives, as pydantic models: they check requests and describe answers.

Answers are built as plain dictionaries by `orchestrator.api.views` and described here, so that no
answer is validated a second time on its way out; the tests hold the two together.
"""

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictInt,
    StringConstraints,
)

from db.domain import (
    MAX_ORDER_LINES,
    MAX_QUANTITY,
    MAX_TEXT_LENGTH,
    MAX_UNIT_PRICE_CENTS,
    ORDER_ID_PATTERN,
    AttemptOutcome,
    Reason,
    State,
    Step,
)

MAX_HELD_SECONDS = 60.0
"""How long `?wait=` holds an answer at most, whatever it asks for."""

_VISIBLE_TEXT = r"^[^\x00-\x1f\x7f]*[^\s\x00-\x1f\x7f][^\x00-\x1f\x7f]*$"
"""No control characters, and something other than spaces."""

Text = Annotated[str, StringConstraints(min_length=1, max_length=MAX_TEXT_LENGTH, pattern=_VISIBLE_TEXT)]
OrderId = Annotated[str, StringConstraints(pattern=ORDER_ID_PATTERN)]
RunId = Annotated[str, StringConstraints(pattern=ORDER_ID_PATTERN)]
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
"""A whole one too, but not `true` or a number in text."""

Share = Annotated[Number, Field(ge=0, le=1)]


def _only_text(value: object) -> object:
    # Pydantic would also take numbers, and numbers in text, as seconds since 1970.
    if not isinstance(value, str) or not value[:4].isdecimal() or value[4:5] != "-":
        raise ValueError("must be a time like 2026-01-31T12:00:00.000Z")
    return value


def _in_utc(time: datetime) -> datetime:
    try:
        return time.astimezone(UTC)
    except OverflowError:
        # The first and the last day of all have no such hour everywhere.
        raise ValueError("must be a time between the years 1 and 9999 in UTC") from None


Time = Annotated[AwareDatetime, BeforeValidator(_only_text), AfterValidator(_in_utc)]


def _whole(value: object) -> object:
    # To JSON, 2.0 is an integer.
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _between(least: int, most: int) -> Any:
    """The bounds, also for the schema: behind a validator Pydantic would name them as Python does."""

    def name_them(schema: dict[str, Any]) -> None:
        for name in ("ge", "le"):
            schema.pop(name, None)
        schema.update(minimum=least, maximum=most)

    return Field(ge=least, le=most, json_schema_extra=name_them)


Whole = Annotated[StrictInt, BeforeValidator(_whole)]
Seed = Annotated[Whole, _between(0, 2**53 - 1)]

CURSOR_PATTERN = r"^[0-9]{1,17}\.[A-Za-z0-9_-]{1,64}$"
"""Microseconds since 1970, and an order id."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


# --- Requests -----------------------------------------------------------------------------------


class AddressBody(_Strict):
    street: Text
    city: Text
    state: Text
    zip: Text


class ItemBody(_Strict):
    sku: Text
    quantity: Annotated[Whole, _between(1, MAX_QUANTITY)]
    unit_price_cents: Annotated[Whole, _between(0, MAX_UNIT_PRICE_CENTS)]


class StartBody(_Strict):
    initial_address: AddressBody
    items: Annotated[list[ItemBody], Field(min_length=1, max_length=MAX_ORDER_LINES)] | None = Field(
        default=None, description="Without items, the order contains one sample item."
    )
    payment_id: Text | None = Field(
        default=None, description="The payment's idempotency key; by default `pay-` and the order id."
    )
    review: Literal["auto", "manual"] = "auto"
    run_id: RunId | None = Field(default=None, description="The load test that this order belongs to.")
    requested_at: Time | None = Field(
        default=None,
        description="When the order was due, for a load test that sends on a schedule; by default now. "
        "The future counts as now, more than a day ago as a day ago.",
    )


class CancelBody(_Strict):
    reason: Text
    cancelled_by: Text


class UpdateAddressBody(_Strict):
    new_address: AddressBody
    updated_by: Text


class ApproveBody(_Strict):
    reviewer: Text


class RejectBody(_Strict):
    reviewer: Text
    reason: Text


class RatesBody(_Strict):
    """The share of calls that meet each fault; what is left over works."""

    error: Share = 0.0
    hang: Share = 0.0
    slow: Share = 0.0
    slow_mean_ms: Annotated[Number, Field(gt=0, le=60_000)] = 100.0
    decline: Share = 0.0
    lost_answer: Share = 0.0


FaultyStep = Literal["receive", "validate", "charge", "prepare", "dispatch", "recall", "refund"]


class CustomRatesBody(_Strict):
    default: RatesBody = RatesBody()
    steps: dict[FaultyStep, RatesBody] = Field(default_factory=dict)


class NamedFaultsBody(_Strict):
    """A profile that brings its own rates."""

    profile: Literal["none", "assignment", "lossy", "slow", "outage"]
    seed: Seed = 0


class CustomFaultsBody(_Strict):
    """Rates of one's own; those of a step must not sum to more than 1."""

    profile: Literal["custom"]
    seed: Seed = 0
    rates: CustomRatesBody


FaultsBody = Annotated[NamedFaultsBody | CustomFaultsBody, Field(discriminator="profile")]


# --- Queries ------------------------------------------------------------------------------------


class StatusQuery(_Strict):
    wait: Annotated[float, Field(ge=0, le=3_600, allow_inf_nan=False)] = Field(
        default=0.0,
        description="Hold the answer until the outcome, for at most this many seconds "
        f"({MAX_HELD_SECONDS:.0f} at a time).",
    )


class ListQuery(_Strict):
    state: State | None = None
    run_id: RunId | None = None
    limit: Annotated[int, Field(ge=1, le=500)] = 50
    cursor: Annotated[str, StringConstraints(pattern=CURSOR_PATTERN)] | None = Field(
        default=None, description="The `next_cursor` of the page before."
    )


class LatencyQuery(_Strict):
    run_id: RunId | None = None
    since: Time | None = Field(default=None, description="Orders accepted at or after this time.")
    until: Time | None = Field(default=None, description="Orders accepted before this time.")


class AuditQuery(_Strict):
    run_id: RunId | None = None
    progress: bool = False


class FaultHistoryQuery(_Strict):
    limit: Annotated[int, Field(ge=1, le=1_000)] = 100


# --- Answers ------------------------------------------------------------------------------------


class StartAnswer(BaseModel):
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


class OrderStatusAnswer(BaseModel):
    workflow_id: str
    order_id: str
    run_id: str | None
    status: Literal["running", "completed", "failed", "cancelled"]
    state: State
    current_step: Step | None
    completed_steps: list[Step]
    retries: dict[str, int] = Field(description="Failed attempts of each step that had any.")
    recent_errors: list[RecentError] = Field(description="The last ten, oldest first.")
    result: OrderOutcome | None
    error: str | None = Field(description="Why the order was cancelled or failed.")
    reason: Reason | None
    created_at: datetime
    updated_at: datetime
    deadline_at: datetime
    completion_ms: int | None
    within_limit: bool | None


class OrderSummaryAnswer(BaseModel):
    workflow_id: str
    order_id: str
    run_id: str | None
    status: Literal["running", "completed", "failed", "cancelled"]
    state: State
    current_step: Step | None
    reason: Reason | None
    amount_cents: int
    created_at: datetime
    updated_at: datetime
    deadline_at: datetime
    completion_ms: int | None
    within_limit: bool | None


class OrderListAnswer(BaseModel):
    orders: list[OrderSummaryAnswer]
    next_cursor: str | None


class EventAnswer(BaseModel):
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


class HistoryAnswer(BaseModel):
    order_id: str
    events: list[EventAnswer]


class RequestAnswer(BaseModel):
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


class LatencyAnswer(BaseModel):
    """Times in milliseconds; null and empty as long as no order has finished."""

    run_id: str | None
    since: datetime | None
    until: datetime | None
    count: int = Field(description="Orders with an outcome.")
    late: int = Field(description="Those whose outcome came after their deadline.")
    open: int = Field(description="Orders without an outcome yet.")
    overdue: int = Field(description="Open orders past their deadline.")
    outcomes: dict[str, int]
    completion_ms: Percentiles | None
    end_to_end_ms: Percentiles | None
    steps_ms: dict[str, Percentiles]


class InvariantAnswer(BaseModel):
    number: int
    text: str
    holds: bool


class ViolationAnswer(BaseModel):
    invariant: int
    order_id: str
    finding: str
    witness: dict[str, Any] = Field(description="The shortest list of facts that shows it.")


class AuditAnswer(BaseModel):
    run_id: str | None
    clean: bool
    judged: int = Field(description="Orders with an outcome.")
    late: int
    open: int = Field(description="Orders still running or being closed by the reconciler: not judged.")
    open_orders: list[str]
    overdue: int = Field(description="Open orders past their deadline.")
    workflows_checked: int = Field(description="Closed workflows held against the books.")
    uncompared: int = Field(
        description="Judged orders without a closed workflow in Temporal's list: it runs, is not listed yet, "
        "or was forgotten after Temporal's retention."
    )
    without_events: int = Field(
        description="Judged orders whose events were dropped: not asked for invariants 1, 2, 6, 7 and 9."
    )
    events_since: datetime | None = Field(
        description="Orders accepted since then have all their events; null while none were dropped."
    )
    invariants: list[InvariantAnswer]
    violations: list[ViolationAnswer]


class FaultsAnswer(BaseModel):
    profile: str
    seed: int
    rates: dict[str, Any]
    since: datetime | None = Field(description="Null for the profile that was never changed.")


class FaultHistoryAnswer(BaseModel):
    changes: list[FaultsAnswer]


class HealthAnswer(BaseModel):
    status: Literal["healthy", "unhealthy"]
    timestamp: datetime
    temporal_connected: bool
    database_connected: bool
    workers_healthy: bool


class CallerAnswer(BaseModel):
    name: str | None
    role: Literal["viewer", "operator", "chaos"]


class ProblemField(BaseModel):
    field: str
    message: str


class Problem(BaseModel):
    """RFC 9457. `errors` names the wrong fields of a 422."""

    type: str
    title: str
    status: int
    detail: str
    errors: list[ProblemField] | None = None
