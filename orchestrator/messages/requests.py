"""Signals and updates: requests of people about an order, and their limits and errors."""

from dataclasses import dataclass

from db import domain
from db.domain import Address

MAX_ADDRESS_VERSION = 2**31 - 1
"""PostgreSQL's maximum of the type int."""

MAX_REQUESTS = 200
"""Requests of one kind that an order handles. Each adds about six events to the workflow's history; Temporal
ends a workflow at 51,200."""

# Types of ApplicationErrors.
INVALID_REQUEST = "InvalidRequest"
VALUE_REJECTED = "ValueRejected"
TOO_MANY_REQUESTS = "TooManyRequests"

UNACCEPTABLE = (INVALID_REQUEST, VALUE_REJECTED)
"""Error types of an update that fails because of its content."""


@dataclass(frozen=True)
class PersonRequest:
    """A request of a customer or a reviewer about a running order."""

    def validation_errors(self) -> list[str]:
        """Return one message for each invalid field."""
        texts = {name: value for name, value in vars(self).items() if isinstance(value, str)}
        return list(domain.text_errors(**texts).values())


@dataclass(frozen=True)
class CancelOrder(PersonRequest):
    reason: str
    cancelled_by: str


@dataclass(frozen=True)
class UpdateAddress(PersonRequest):
    """Change the address. `address_version` is the version of the address that the change replaces; if the
    order has another version, it rejects the change. None replaces any version."""

    new_address: Address
    updated_by: str
    address_version: int | None = None

    def validation_errors(self) -> list[str]:
        errors = self.new_address.validation_errors() + super().validation_errors()
        if self.address_version is not None and not 1 <= self.address_version <= MAX_ADDRESS_VERSION:
            errors.append(f"address_version must be 1 to {MAX_ADDRESS_VERSION}")
        return errors


@dataclass(frozen=True)
class ApproveOrder(PersonRequest):
    reviewer: str


@dataclass(frozen=True)
class RejectOrder(PersonRequest):
    reviewer: str
    reason: str


@dataclass(frozen=True)
class DispatchFailed:
    """Signal from `ShippingWorkflow`: the carrier or the warehouse declined, or the time was over."""

    reason: str
    attempts: int
