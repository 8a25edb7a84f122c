"""Bodies and queries of the REST API, and the constrained types of their fields."""

import re
from datetime import datetime
from typing import Annotated, Any, Literal, Self

from fastapi import Header, Request
from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictInt,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import InitErrorDetails

from db import domain
from db.currencies import CURRENCIES, DEFAULT_CURRENCY
from orchestrator.api.schemas.pagination import CURSOR_PATTERN
from orchestrator.errors import RequestMalformed
from orchestrator.messages.requests import MAX_ADDRESS_VERSION
from orchestrator.rfc3339 import parse_rfc3339

MAX_WAIT_SECONDS = 60.0
"""Maximum duration of a long poll; a longer `?wait=` is cut to it."""


class StrictModel(BaseModel):
    model_config = ConfigDict(extra="forbid")


def _check_text(value: str, info: ValidationInfo) -> str:
    problem = domain.text_error(info.field_name or "text", value)
    if problem is not None:
        raise ValueError(problem)
    return value


def _check_optional_text(value: str, info: ValidationInfo) -> str:
    return _check_text(value, info) if value.strip(" ") else ""


def matching(pattern: str, description: str) -> Any:
    """Return a validator of a pattern. Its message is the description: Pydantic's would quote the pattern."""

    def check(value: str) -> str:
        if re.fullmatch(pattern, value, re.ASCII) is None:
            raise ValueError(f"must be {description}")
        return value

    return AfterValidator(check)


_CONTROLS = r"\x00-\x1f\x7f-\x9f\u2028\u2029"
_TEXT_PATTERN = rf"^[^{_CONTROLS}]*[^\s{_CONTROLS}][^{_CONTROLS}]*$"
"""No control characters, and at least one character that is not a space."""

_TEXT_SCHEMA: dict[str, Any] = {
    "type": "string",
    "minLength": 1,
    "maxLength": domain.MAX_TEXT_LENGTH,
    "pattern": _TEXT_PATTERN,
}

Text = Annotated[str, AfterValidator(_check_text), WithJsonSchema(_TEXT_SCHEMA)]
OptionalText = Annotated[
    str,
    BeforeValidator(lambda value: "" if value is None else value),
    AfterValidator(_check_optional_text),
    WithJsonSchema(
        {"type": ["string", "null"], "maxLength": domain.MAX_TEXT_LENGTH, "pattern": rf"^[^{_CONTROLS}]*$"}
    ),
]
OrderId = Annotated[
    str,
    matching(domain.ORDER_ID_PATTERN, "1 to 64 letters, digits, '-' or '_'"),
    WithJsonSchema({"type": "string", "pattern": domain.ORDER_ID_PATTERN}),
]
RunId = OrderId

Cursor = Annotated[
    str,
    matching(CURSOR_PATTERN, "the `next_cursor` of another page"),
    WithJsonSchema({"type": "string", "pattern": CURSOR_PATTERN}),
]

_KEY_PATTERN = r"^[\x21-\x7e]{1,255}$"

_NOTES_PATTERN = r"^[^\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]*$"
"""No control characters except tabs and line breaks. Validators of JSON schemas cannot compile surrogates, so
`_check_notes` rejects them."""

_SURROGATES = re.compile("[\ud800-\udfff]")

_NOTES_SCHEMA: dict[str, Any] = {
    "type": "string",
    "maxLength": domain.MAX_NOTES_LENGTH,
    "pattern": _NOTES_PATTERN,
}


def _check_notes(value: str) -> str:
    if len(value) > domain.MAX_NOTES_LENGTH:
        raise ValueError(f"must have at most {domain.MAX_NOTES_LENGTH} characters")
    if re.fullmatch(_NOTES_PATTERN, value) is None or _SURROGATES.search(value):
        raise ValueError("must not contain control characters")
    return value


IdempotencyKey = Annotated[
    Annotated[
        str,
        matching(_KEY_PATTERN, "1 to 255 visible ASCII characters"),
        WithJsonSchema({"type": "string", "pattern": _KEY_PATTERN}),
    ]
    | None,
    Header(
        alias="Idempotency-Key",
        description="A repeated request with the same key and body gets the first response.",
    ),
]

Country = Annotated[str, WithJsonSchema({"type": "string", "enum": sorted(domain.COUNTRIES)})]
"""Checked by `Address.field_errors`."""

Currency = Annotated[str, WithJsonSchema({"type": "string", "enum": sorted(CURRENCIES)})]
"""Checked by `OrderRequest.validation_errors`."""

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


def _parse_time(value: object) -> datetime:
    # Pydantic also accepts numbers, and numbers in strings, as Unix times.
    try:
        return parse_rfc3339(str(value))
    except ValueError:
        raise ValueError("must be a time like 2026-01-31T12:00:00.000Z, in the years 1 to 9999") from None


Time = Annotated[AwareDatetime, BeforeValidator(_parse_time)]


def _require_by_country(schema: dict[str, Any]) -> None:
    """Replace the JSON schema of an address by two: one requires state and postal code, one another
    country."""
    base, required, properties = dict(schema), schema["required"], schema["properties"]
    schema.clear()
    without_states = {"type": "string", "enum": sorted(domain.COUNTRIES - domain.COUNTRIES_WITH_STATES)}
    schema["anyOf"] = [
        base
        | {
            "required": [*required, "state", "zip"],
            "properties": properties | {"state": _TEXT_SCHEMA, "zip": _TEXT_SCHEMA},
        },
        base | {"required": [*required, "country"], "properties": properties | {"country": without_states}},
    ]


class AddressBody(StrictModel):
    """A postal address. Texts are stored in Unicode NFC."""

    model_config = ConfigDict(json_schema_extra=_require_by_country)

    street: Text
    street2: OptionalText = ""
    city: Text
    state: OptionalText = Field(
        default="", description=f"Required in {', '.join(sorted(domain.COUNTRIES_WITH_STATES))}."
    )
    zip: OptionalText = Field(default="", description="The postal code. Required where `state` is.")
    country: Country = Field(default=domain.DEFAULT_COUNTRY, description="ISO 3166 code.")

    @model_validator(mode="after")
    def _check_address(self) -> Self:
        errors: list[InitErrorDetails] = [
            {"type": "value_error", "loc": (name,), "input": getattr(self, name), "ctx": {"error": error}}
            for name, error in self.to_address().field_errors().items()
        ]
        if errors:
            # Pydantic adds the name of the field that has the address.
            raise ValidationError.from_exception_data("address", errors)
        return self

    def to_address(self) -> domain.Address:
        return domain.Address(**self.model_dump())


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
    payment_method: Text | None = Field(
        default=None,
        description="The payment provider's id of the customer's card or account, for example a "
        "PaymentMethod of Stripe.",
    )
    currency: Currency = Field(
        default=DEFAULT_CURRENCY,
        description="ISO 4217 code. Prices are whole numbers in its minor unit.",
    )
    review: Literal["auto", "manual"] = "auto"
    execution: Literal["fast", "visible"] | None = Field(
        default=None,
        description="`visible`: every step is an activity of its own in Temporal's UI, with its retries. By "
        "default the setting `ORDER_EXECUTION`.",
    )
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


def require_single_values(request: Request) -> None:
    """Reject a query parameter that is given twice: only one of its values would be used."""
    names = [name for name, _ in request.query_params.multi_items()]
    for name in names:
        if names.count(name) > 1:
            raise RequestMalformed(f"query.{name}: is given twice")


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
    cursor: Cursor | None = Field(default=None, description="`next_cursor` of the previous page.")


class LatencyQuery(StrictModel):
    run_id: RunId | None = None
    since: Time | None = Field(default=None, description="Orders accepted at or after this time.")
    until: Time | None = Field(default=None, description="Orders accepted before this time.")


class RunListQuery(StrictModel):
    limit: Annotated[int, Field(ge=1, le=500)] = 50


class RunChangesBody(StrictModel):
    """Fields that are not given stay unchanged."""

    label: Text | None = Field(default=None, description="Null removes it.")
    notes: Annotated[str, AfterValidator(_check_notes), WithJsonSchema(_NOTES_SCHEMA)] = ""
    is_baseline: Annotated[bool, Field(strict=True)] = False


class AuditQuery(StrictModel):
    run_id: RunId | None = None
