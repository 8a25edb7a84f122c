"""The settings of the gateways: which ones, how to call them, and how to reach them."""

import re
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings

SIMULATED = "simulated"

ROLES = ("payment", "warehouse", "carrier")

_URL = "a URL like https://HOST:PORT"


class CallPolicy(BaseModel):
    """How the steps of one gateway call it. Times are in seconds; a maximum of 0 means none.

    `need` is the time that earlier steps leave for each step of the gateway, and `compensation` the time that
    an aborted order leaves for its compensations. Without `full_jitter`, a retry after a timeout has no
    delay.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    timeout: float = Field(default=2.0, gt=0, le=60)
    need: float = Field(default=2.0, ge=0, le=600)
    compensation: float = Field(default=3.5, ge=0, le=600)
    first_backoff: float = Field(default=0.1, gt=0, le=60)
    max_backoff: float = Field(default=2.0, gt=0, le=60)
    full_jitter: bool = True
    max_calls: int = Field(default=50, ge=0, le=10_000)
    breaker_failures: int = Field(default=50, ge=0, le=10_000)
    breaker_seconds: float = Field(default=2.0, gt=0, le=60)

    @model_validator(mode="after")
    def _check_backoff(self) -> "CallPolicy":
        if self.first_backoff > self.max_backoff:
            raise ValueError("first_backoff is longer than max_backoff")
        return self

    def overridden(self, text: str | None) -> "CallPolicy":
        """Return this policy with the values of a setting like `timeout=3 need=4`. Raises ValueError."""
        pairs = [part.partition("=") for part in re.split(r"[,\s]+", text or "") if part]
        given = {name: value for name, _, value in pairs}
        try:
            return CallPolicy.model_validate(self.model_dump() | given)
        except ValidationError as error:
            problem = error.errors(include_url=False, include_input=False)[0]
            name = ".".join(str(part) for part in problem["loc"]) or "the values"
            raise ValueError(f"{name}: {problem['msg'].removeprefix('Value error, ')}") from None


REMOTE_CALLS = CallPolicy()
"""The default for gateways over a network."""

SIMULATED_CALLS = CallPolicy(
    timeout=0.2,
    need=0.8,
    compensation=3.0,
    first_backoff=0.02,
    max_backoff=0.25,
    full_jitter=False,
    max_calls=0,
    breaker_failures=0,
)
"""Of the simulated gateways. docs/decisions/0003 has the measurement of the timeout."""


def _check_calls(text: str | None) -> str | None:
    REMOTE_CALLS.overridden(text)
    return text


Calls = Annotated[str | None, AfterValidator(_check_calls)]


class GatewaySettings(BaseSettings):
    payment_gateway: str | None = None
    warehouse_gateway: str | None = None
    carrier_gateway: str | None = None

    payment_calls: Calls = None
    warehouse_calls: Calls = None
    carrier_calls: Calls = None

    stripe_api_key: SecretStr | None = Field(default=None, exclude=True)
    stripe_live: bool = False
    stripe_api_base: str = Field(
        default="https://api.stripe.com", pattern=r"^https?://[^/\s]+$", description=_URL
    )
    stripe_payment_method: str | None = None

    http_gateway_url: str | None = Field(default=None, pattern=r"^https?://[^\s@]+$", description=_URL)
    http_gateway_token: SecretStr | None = Field(default=None, exclude=True)
