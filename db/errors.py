"""The base class of all errors, and the errors of the order database.

OrderSystemError
 ├─ ValueRejected                  PostgreSQL cannot store or compare a value; a retry fails too
 ├─ WrongDatabase                  an order of another order database
 └─ ServiceUnavailable             a service cannot be used at the moment
     └─ DatabaseError              the statement failed; after a lost connection, it may have taken effect
         ├─ DatabaseUnavailable    no connection, or the connection was lost
         ├─ WrongCredentials       PostgreSQL rejected the user, the password or the database name
         ├─ DatabaseCertificateRejected   the certificate of PostgreSQL is not valid
         ├─ TooManyConnections     PostgreSQL has no connection slot left
         ├─ PoolExhausted          all connections of this process are in use
         ├─ StatementTimeout       a statement exceeded its timeout
         ├─ LockTimeout            a lock was not available in time
         ├─ TransactionConflict    a deadlock or a serialization failure
         └─ DiskFull               PostgreSQL cannot write

Any other error of psycopg is a bug and is not translated. `orchestrator.errors` has further subclasses. The
docstring of a class is its default message.
"""


class OrderSystemError(Exception):
    """The operation failed."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (self.__doc__ or "").strip())


class ValueRejected(OrderSystemError):
    """The database rejected a value: it is out of range, malformed or violates a constraint."""

    @property
    def cause(self) -> str:
        """PostgreSQL's message without its detail, which can contain the row."""
        diagnostic = getattr(self.__cause__, "diag", None)
        return getattr(diagnostic, "message_primary", None) or type(self.__cause__).__name__


class WrongDatabase(OrderSystemError):
    """The order was placed for another order database."""


class ServiceUnavailable(OrderSystemError):
    """A service is not responding. Try again shortly."""


class DatabaseError(ServiceUnavailable):
    """The database cannot run this statement at the moment. Try again shortly."""


class DatabaseUnavailable(DatabaseError):
    """The database is not responding. Try again shortly."""


class WrongCredentials(DatabaseError):
    """The database rejected the credentials. Check DATABASE_URL."""


class DatabaseCertificateRejected(DatabaseError):
    """The database's certificate is rejected. Check sslrootcert and sslmode in DATABASE_URL."""


class TooManyConnections(DatabaseError):
    """The database has no free connection slot. Try again shortly, or raise max_connections."""


class PoolExhausted(DatabaseError):
    """All database connections of this process are in use. Try again shortly."""


class StatementTimeout(DatabaseError):
    """The database took too long. Narrow the selection, or retry."""


class LockTimeout(DatabaseError):
    """A database lock was not available in time. Try again shortly."""


class TransactionConflict(DatabaseError):
    """The transaction conflicted with another one. Try again."""


class DiskFull(DatabaseError):
    """The database has no disk space left."""
