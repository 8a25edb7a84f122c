"""Constrained types of the request schemas."""

from datetime import UTC, datetime
from typing import Annotated, Any

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

from db.domain import MAX_TEXT_LENGTH, ORDER_ID_PATTERN


class StrictModel(BaseModel):
    model_config = ConfigDict(extra="forbid")


_TEXT_PATTERN = r"^[^\x00-\x1f\x7f]*[^\s\x00-\x1f\x7f][^\x00-\x1f\x7f]*$"
"""No control characters, and at least one character that is not a space."""

Text = Annotated[str, StringConstraints(min_length=1, max_length=MAX_TEXT_LENGTH, pattern=_TEXT_PATTERN)]
RunId = Annotated[str, StringConstraints(pattern=ORDER_ID_PATTERN)]

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
