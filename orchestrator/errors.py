"""Every error the project raises on purpose, in one tree.

OrderSystemError
 ├─ UsageError              the command or its settings are wrong        (exit code 2)
 │   ├─ SettingsError
 │   └─ StackError          the embedded stack cannot start, and the mend
 ├─ ServiceUnavailable      a service cannot be used at the moment       (HTTP 503)
 │   ├─ DatabaseError       PostgreSQL; its kinds are in `db.errors`
 │   └─ TemporalUnavailable
 ├─ PayloadUnreadable       Temporal holds what no key of ours decrypts
 ├─ RequestRejected          the request cannot be carried out
 │   ├─ RequestMalformed    HTTP 422
 │   ├─ NotAllowed          HTTP 401, 403
 │   ├─ OrderUnknown        HTTP 404
 │   ├─ RunUnknown          HTTP 404
 │   ├─ OrderConflict       HTTP 409
 │   ├─ TooLate             HTTP 409
 │   └─ Overloaded          HTTP 429
 └─ GatewayError            a call to the outside world did not succeed
     ├─ GatewayError       it answered with an error; another attempt may succeed
     └─ GatewayDeclined     it said no; another attempt gets the same answer

The docstring of a class is its default message.
"""

from db.errors import DatabaseError as DatabaseError
from db.errors import DatabaseUnavailable as DatabaseUnavailable
from db.errors import DiskFull as DiskFull
from db.errors import LockTimeout as LockTimeout
from db.errors import OrderSystemError as OrderSystemError
from db.errors import PoolExhausted as PoolExhausted
from db.errors import ServiceUnavailable as ServiceUnavailable
from db.errors import StatementTimeout as StatementTimeout
from db.errors import TextRejected as TextRejected
from db.errors import TooManyConnections as TooManyConnections
from db.errors import TransactionConflict as TransactionConflict
from db.errors import WrongCredentials as WrongCredentials


class UsageError(OrderSystemError):
    """The command was used wrongly."""


class SettingsError(UsageError):
    """A setting has a value that cannot be used."""


class StackError(UsageError):
    """The stack cannot be started."""


class TemporalUnavailable(ServiceUnavailable):
    """Temporal does not answer; try again shortly."""


class PayloadUnreadable(OrderSystemError):
    """A payload of Temporal cannot be decrypted with the keys that are here."""


class RequestRejected(OrderSystemError):
    """The request cannot be carried out."""


class RequestMalformed(RequestRejected):
    """The request is not well formed."""


class NotAllowed(RequestRejected):
    """This needs an API key, or one with another role."""


class OrderUnknown(RequestRejected):
    """There is no such order."""


class RunUnknown(RequestRejected):
    """There is no such run."""


class OrderConflict(RequestRejected):
    """An order with this id and other content exists."""


class TooLate(RequestRejected):
    """The order is past the point where this was possible."""


class Overloaded(RequestRejected):
    """There is too much to do just now; try again shortly."""

    def __init__(self, message: str | None = None, retry_after_seconds: int = 1) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class GatewayError(OrderSystemError):
    """A call to the outside world did not succeed."""


class GatewayDeclined(GatewayError):
    """The call was declined; another attempt gets the same answer."""
