"""Bodies and queries of the REST API, and the constrained types of their fields."""

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

from db import domain
from orchestrator.api.schemas.pagination import CURSOR_PATTERN
from orchestrator.messages import MAX_ADDRESS_VERSION

MAX_WAIT_SECONDS = 60.0
"""Maximum duration of a long poll; a longer `?wait=` is cut to it."""


class StrictModel(BaseModel):
    model_config = ConfigDict(extra="forbid")


_TEXT_PATTERN = r"^[^\x00-\x1f\x7f]*[^\s\x00-\x1f\x7f][^\x00-\x1f\x7f]*$"
"""No control characters, and at least one character that is not a space."""

Text = Annotated[
    str, StringConstraints(min_length=1, max_length=domain.MAX_TEXT_LENGTH, pattern=_TEXT_PATTERN)
]
RunId = Annotated[str, StringConstraints(pattern=domain.ORDER_ID_PATTERN)]

Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
"""A JSON number; not `true`, and not a number in a string."""

Share = Annotated[Number, Field(ge=0, le=1)]


def between(minimum: int, maximum: int) -> Any:
    """Return a field with bounds, which the JSON schema shows too."""

    def name_bounds(schema: dict[str, Any]) -> None:
        # Behind a validator Pydantic writes them as `ge` and `le`.
        for name in ("ge", "le"):
            schema.pop(name, None)
        schema.update(minimum=minimum, maximum=maximum)

    return Field(ge=minimum, le=maximum, json_schema_extra=name_bounds)


def _to_integer(value: object) -> object:
    # In JSON schema, 2.0 is an integer.
    return int(value) if isinstance(value, float) and value.is_integer() else value


Integer = Annotated[StrictInt, BeforeValidator(_to_integer)]
Seed = Annotated[Integer, between(0, 2**53 - 1)]


def _require_text(value: object) -> object:
    # Pydantic also accepts numbers, and numbers in strings, as Unix times.
    if not isinstance(value, str) or not value[:4].isdecimal() or value[4:5] != "-":
        raise ValueError("must be a time like 2026-01-31T12:00:00.000Z")
    return value


def _to_utc(time: datetime) -> datetime:
    try:
        return time.astimezone(UTC)
    except OverflowError:
        raise ValueError("must be a time between the years 1 and 9999 in UTC") from None


Time = Annotated[AwareDatetime, BeforeValidator(_require_text), AfterValidator(_to_utc)]


class AddressBody(StrictModel):
    street: Text
    city: Text
    state: Text
    zip: Text


class ItemBody(StrictModel):
    sku: Text
    quantity: Annotated[Integer, between(1, domain.MAX_QUANTITY)]
    unit_price_cents: Annotated[Integer, between(0, domain.MAX_UNIT_PRICE_CENTS)]


class StartBody(StrictModel):
    initial_address: AddressBody
    items: Annotated[list[ItemBody], Field(min_length=1, max_length=domain.MAX_ORDER_LINES)] | None = Field(
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
    address_version: Annotated[Integer, between(1, MAX_ADDRESS_VERSION)] | None = Field(
        default=None,
        description="The `address_version` of the status that the change is based on. If the address has "
        "changed since, the response is 409.",
    )


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
    state: domain.State | None = None
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
