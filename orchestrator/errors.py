"""Every error the project raises on purpose, in one tree.

OrderSystemError
 ├─ UsageError              the command or its settings are wrong        (exit code 2)
 │   ├─ SettingsError
 │   └─ StackError          the embedded stack cannot start, and the mend
 ├─ ServiceAway             a part we need does not answer just now       (HTTP 503)
 │   ├─ BooksAway           PostgreSQL
 │   │   └─ ReadingTooLong  it answers, but not this in the time a screen has
 │   └─ TemporalAway        Temporal
 ├─ PayloadUnreadable       Temporal holds what no key of ours decrypts
 ├─ RequestRefused          the request cannot be carried out
 │   ├─ RequestMalformed    HTTP 422
 │   ├─ NotAllowed          HTTP 401, 403
 │   ├─ OrderUnknown        HTTP 404
 │   ├─ RunUnknown          HTTP 404
 │   ├─ OrderConflict       HTTP 409
 │   ├─ TooLate             HTTP 409
 │   └─ Overloaded          HTTP 429
 └─ OutsideError            a call to the outside world did not succeed
     ├─ OutsideFailed       it answered with an error; another attempt may succeed
     └─ OutsideDeclined     it said no; another attempt gets the same answer

The docstring of a class is its default message.
"""


class OrderSystemError(Exception):
    """The order system could not do this."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (self.__doc__ or "").strip())


class UsageError(OrderSystemError):
    """The command was used wrongly."""


class SettingsError(UsageError):
    """A setting has a value that cannot be used."""


class StackError(UsageError):
    """The stack cannot be started."""


class ServiceAway(OrderSystemError):
    """A service does not answer; try again shortly."""


class BooksAway(ServiceAway):
    """The database does not answer; try again shortly."""


class ReadingTooLong(BooksAway):
    """The database took too long for this; choose less, or try again."""


class TemporalAway(ServiceAway):
    """Temporal does not answer; try again shortly."""


class PayloadUnreadable(OrderSystemError):
    """A payload of Temporal cannot be decrypted with the keys that are here."""


class RequestRefused(OrderSystemError):
    """The request cannot be carried out."""


class RequestMalformed(RequestRefused):
    """The request is not well formed."""


class NotAllowed(RequestRefused):
    """This needs an API key, or one with another role."""


class OrderUnknown(RequestRefused):
    """There is no such order."""


class RunUnknown(RequestRefused):
    """There is no such run."""


class OrderConflict(RequestRefused):
    """An order with this id and other content exists."""


class TooLate(RequestRefused):
    """The order is past the point where this was possible."""


class Overloaded(RequestRefused):
    """There is too much to do just now; try again shortly."""

    def __init__(self, message: str | None = None, retry_after_seconds: int = 1) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class OutsideError(OrderSystemError):
    """A call to the outside world did not succeed."""


class OutsideFailed(OutsideError):
    """The call failed; another attempt may succeed."""


class OutsideDeclined(OutsideError):
    """The call was declined; another attempt gets the same answer."""
