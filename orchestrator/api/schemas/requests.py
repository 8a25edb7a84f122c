"""Bodies and queries of the REST API."""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from db.domain import MAX_ORDER_LINES, MAX_QUANTITY, MAX_UNIT_PRICE_CENTS, State
from orchestrator.api.schemas.pagination import CURSOR_PATTERN
from orchestrator.api.schemas.types import (
    Integer,
    Number,
    RunId,
    Seed,
    Share,
    StrictModel,
    Text,
    Time,
    between,
)

MAX_WAIT_SECONDS = 60.0
"""The longest long poll, whatever `?wait=` says."""


class AddressBody(StrictModel):
    street: Text
    city: Text
    state: Text
    zip: Text


class ItemBody(StrictModel):
    sku: Text
    quantity: Annotated[Integer, between(1, MAX_QUANTITY)]
    unit_price_cents: Annotated[Integer, between(0, MAX_UNIT_PRICE_CENTS)]


class StartBody(StrictModel):
    initial_address: AddressBody
    items: Annotated[list[ItemBody], Field(min_length=1, max_length=MAX_ORDER_LINES)] | None = Field(
        default=None, description="Without items, the order contains one sample item."
    )
    payment_id: Text | None = Field(
        default=None, description="Idempotency key of the payment; by default `pay-` and the order id."
    )
    review: Literal["auto", "manual"] = "auto"
    run_id: RunId | None = Field(default=None, description="The load test that this order belongs to.")
    requested_at: Time | None = Field(
        default=None,
        description="The scheduled send time of a load test's order; by default now. A time in the future "
        "counts as now, a time more than a day ago as a day ago.",
    )


class CancelBody(StrictModel):
    reason: Text
    cancelled_by: Text


class UpdateAddressBody(StrictModel):
    new_address: AddressBody
    updated_by: Text


class ApproveBody(StrictModel):
    reviewer: Text


class RejectBody(StrictModel):
    reviewer: Text
    reason: Text


class RatesBody(StrictModel):
    """The share of calls with each fault. All other calls succeed."""

    error: Share = 0.0
    hang: Share = 0.0
    slow: Share = 0.0
    slow_mean_ms: Annotated[Number, Field(gt=0, le=60_000)] = 100.0
    decline: Share = 0.0
    lost_answer: Share = 0.0


FaultyStep = Literal["receive", "validate", "charge", "prepare", "dispatch", "recall", "refund"]


class CustomRatesBody(StrictModel):
    default: RatesBody = RatesBody()
    steps: dict[FaultyStep, RatesBody] = Field(default_factory=dict)


class NamedFaultsBody(StrictModel):
    """A profile with predefined rates."""

    profile: Literal["none", "assignment", "lossy", "slow", "outage"]
    seed: Seed = 0


class CustomFaultsBody(StrictModel):
    """A profile with its own rates; the sum of the rates of a step is at most 1."""

    profile: Literal["custom"]
    seed: Seed = 0
    rates: CustomRatesBody


FaultsBody = Annotated[NamedFaultsBody | CustomFaultsBody, Field(discriminator="profile")]


class StatusQuery(StrictModel):
    wait: Annotated[float, Field(ge=0, le=3_600, allow_inf_nan=False)] = Field(
        default=0.0,
        description="Long poll: respond when the order has its outcome, or after this many seconds "
        f"(at most {MAX_WAIT_SECONDS:.0f}).",
    )


class ListQuery(StrictModel):
    state: State | None = None
    run_id: RunId | None = None
    limit: Annotated[int, Field(ge=1, le=500)] = 50
    cursor: Annotated[str, StringConstraints(pattern=CURSOR_PATTERN)] | None = Field(
        default=None, description="`next_cursor` of the previous page."
    )


class LatencyQuery(StrictModel):
    run_id: RunId | None = None
    since: Time | None = Field(default=None, description="Orders accepted at or after this time.")
    until: Time | None = Field(default=None, description="Orders accepted before this time.")


class AuditQuery(StrictModel):
    run_id: RunId | None = None
