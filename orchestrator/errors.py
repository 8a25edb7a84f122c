"""The errors and exit codes of the project.

OrderSystemError
 ├─ UsageError              a command or a setting is wrong              (exit code 2)
 │   ├─ SettingsError
 │   ├─ StackError          the embedded stack cannot start
 │   └─ StartRefused        a start-up check failed
 ├─ ServiceUnavailable      a service is not responding                  (HTTP 503)
 │   ├─ DatabaseError       PostgreSQL; its kinds are in `db.errors`
 │   └─ TemporalUnavailable
 │       ├─ TemporalBusy    a limit of Temporal is reached          (HTTP 429)
 │       ├─ TemporalFailed
 │       └─ TemporalAccessDenied
 ├─ TemporalReplaced        the server at the address is another cluster than before
 ├─ PayloadUnreadable       no key in PAYLOAD_KEYS decrypts a payload    (HTTP 503)
 ├─ RequestRejected
 │   ├─ RequestMalformed    HTTP 422
 │   ├─ NotAllowed          HTTP 401, 403
 │   ├─ OrderUnknown        HTTP 404
 │   ├─ RunUnknown          HTTP 404
 │   ├─ RunInProgress       HTTP 409
 │   ├─ OrderConflict       HTTP 409
 │   ├─ TooLate             HTTP 409
 │   ├─ AddressOutdated     HTTP 409
 │   ├─ FaultsUnavailable   HTTP 409
 │   └─ Overloaded          HTTP 429
 └─ GatewayError            a gateway call failed; retried
     └─ GatewayDeclined     a gateway declined; not retried

The docstring of a class is its default message.
"""

from collections.abc import Mapping
from enum import IntEnum

from db.errors import DatabaseCertificateRejected as DatabaseCertificateRejected
from db.errors import DatabaseError as DatabaseError
from db.errors import DatabaseUnavailable as DatabaseUnavailable
from db.errors import DiskFull as DiskFull
from db.errors import LockTimeout as LockTimeout
from db.errors import OrderSystemError as OrderSystemError
from db.errors import PoolExhausted as PoolExhausted
from db.errors import ServiceUnavailable as ServiceUnavailable
from db.errors import StatementTimeout as StatementTimeout
from db.errors import TooManyConnections as TooManyConnections
from db.errors import TransactionConflict as TransactionConflict
from db.errors import ValueRejected as ValueRejected
from db.errors import WrongCredentials as WrongCredentials
from db.errors import WrongDatabase as WrongDatabase


class ExitCode(IntEnum):
    """Exit codes of the command line, the load tests and the proofs."""

    PASSED = 0
    CRASHED = 1
    WRONG_USAGE = 2
    LIMIT_BREACHED = 3
    INVARIANT_BROKEN = 4
    NOT_PROVEN = 5
    INVALID_RUN = 6

    @property
    def text(self) -> str:
        """The name as it is printed, for example "limit breached"."""
        return self.name.lower().replace("_", " ")


class UsageError(OrderSystemError):
    """The command is not valid."""


class SettingsError(UsageError):
    """A setting is not valid."""


class StackError(UsageError):
    """The stack cannot be started."""


class StartRefused(UsageError):
    """A start-up check failed."""


class TemporalUnavailable(ServiceUnavailable):
    """Temporal is not responding. Try again shortly."""


class TemporalBusy(TemporalUnavailable):
    """Temporal has reached a limit of requests. Try again shortly."""


class TemporalFailed(TemporalUnavailable):
    """Temporal has reported an internal error. Try again shortly."""


class TemporalAccessDenied(TemporalUnavailable):
    """Temporal has rejected the credentials. Check TEMPORAL_API_KEY and TEMPORAL_TLS."""


class TemporalReplaced(OrderSystemError):
    """The Temporal server is another cluster than before. Restart this process."""


class PayloadUnreadable(OrderSystemError):
    """A Temporal payload cannot be decrypted with the keys in PAYLOAD_KEYS."""


class RequestRejected(OrderSystemError):
    """The request was rejected."""


class RequestMalformed(RequestRejected):
    """The request is malformed."""

    def __init__(self, message: str | None = None, fields: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.fields = dict(fields or {})
        """Messages by the path of the invalid field, for example `body.initial_address.zip`."""


class NotAllowed(RequestRejected):
    """This requires an API key, or a key with another role."""


class OrderUnknown(RequestRejected):
    """There is no such order."""


class RunUnknown(RequestRejected):
    """There is no such run."""


class RunInProgress(RequestRejected):
    """The run is in progress. Stop it, or wait for its verdict."""


class OrderConflict(RequestRejected):
    """An order with this id and other content exists."""


class TooLate(RequestRejected):
    """It is too late for this request: the order has progressed."""


class AddressOutdated(RequestRejected):
    """The address has changed since it was read."""


class FaultsUnavailable(RequestRejected):
    """Faults can only be injected into simulated gateways."""


class Overloaded(RequestRejected):
    """The system is overloaded. Try again shortly."""

    def __init__(self, message: str | None = None, retry_after_seconds: int = 1) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


PROBLEM_TYPES: dict[str, type[RequestRejected]] = {
    "urn:problem:order-unknown": OrderUnknown,
    "urn:problem:run-unknown": RunUnknown,
    "urn:problem:run-in-progress": RunInProgress,
    "urn:problem:order-conflict": OrderConflict,
    "urn:problem:too-late": TooLate,
    "urn:problem:address-outdated": AddressOutdated,
}
"""Types of problem documents (RFC 9457) of errors that share a status code."""


class GatewayError(OrderSystemError):
    """The gateway call failed."""


class GatewayDeclined(GatewayError):
    """The gateway declined the call. A retry would be declined too."""
