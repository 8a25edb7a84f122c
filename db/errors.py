"""Errors: the root of the project's exception tree, and what the order database raises.

OrderSystemError
 └─ ServiceUnavailable       a service does not respond
     └─ DatabaseUnavailable  PostgreSQL
         └─ StatementTimeout PostgreSQL responds, but a statement exceeded its timeout

`orchestrator.errors` continues the tree. The docstring of a class is its default message.
"""


class OrderSystemError(Exception):
    """The order system could not do this."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (self.__doc__ or "").strip())


class ServiceUnavailable(OrderSystemError):
    """A service is not responding. Try again shortly."""


class DatabaseUnavailable(ServiceUnavailable):
    """The database is not responding. Try again shortly."""


class StatementTimeout(DatabaseUnavailable):
    """The database took too long. Narrow the selection or try again."""
