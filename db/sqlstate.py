"""Maps errors of psycopg to the classes of `db.errors`, by SQLSTATE."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg_pool import PoolTimeout, TooManyRequests

from db.errors import (
    DatabaseCertificateRejected,
    DatabaseError,
    DatabaseUnavailable,
    DiskFull,
    LockTimeout,
    PoolExhausted,
    StatementTimeout,
    TooManyConnections,
    TransactionConflict,
    ValueRejected,
    WrongCredentials,
)

_ERROR_OF_SQLSTATE: dict[str, type[DatabaseError]] = {
    "25P03": DatabaseUnavailable,  # idle_in_transaction_session_timeout
    "25P04": DatabaseUnavailable,  # transaction_timeout
    "3D000": WrongCredentials,  # no such database
    "40001": TransactionConflict,
    "40P01": TransactionConflict,
    "53100": DiskFull,
    "53300": TooManyConnections,
    "55P03": LockTimeout,
    "57014": StatementTimeout,
    "57P01": DatabaseUnavailable,  # admin_shutdown
    "57P02": DatabaseUnavailable,  # crash_shutdown
    "57P03": DatabaseUnavailable,  # cannot_connect_now
    "57P05": DatabaseUnavailable,  # idle_session_timeout
}
_ERROR_OF_CLASS: dict[str, type[DatabaseError]] = {
    "08": DatabaseUnavailable,
    "28": WrongCredentials,
    "53": DatabaseError,
}

# For a failed connection attempt, libpq reports a message without a SQLSTATE.
_SQLSTATE_OF_CONNECT_MESSAGE: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("28P01", re.compile(r"password authentication failed|no password supplied")),
    (
        "28000",
        re.compile(
            r"no pg_hba\.conf entry|authentication failed|role .* does not exist|is not permitted to log in"
            r"|permission denied (for database|to set role)"
        ),
    ),
    ("3D000", re.compile(r"database .* does not exist")),
    (
        "53300",
        re.compile(
            r"too many clients|remaining connection slots|too many connections for"
            r"|no more connections allowed"
        ),
    ),
    ("57P03", re.compile(r"the database system is")),
)


_CERTIFICATE_MESSAGE = re.compile(r"certificate verify failed|server certificate for|root certificate")


def sqlstate_of(error: psycopg.Error) -> str | None:
    """Return the SQLSTATE of an error; for a failed connection attempt, derive it from the message."""
    if error.sqlstate is not None:
        return error.sqlstate
    text = str(error)
    return next((code for code, pattern in _SQLSTATE_OF_CONNECT_MESSAGE if pattern.search(text)), None)


def error_class_of(error: psycopg.Error) -> type[DatabaseError] | type[ValueRejected] | None:
    """Return the class that an error of psycopg is translated to, or None for a bug."""
    if isinstance(error, psycopg.DataError | psycopg.IntegrityError):
        return ValueRejected
    if isinstance(error, PoolTimeout | TooManyRequests):
        return PoolExhausted
    if isinstance(error, psycopg.InterfaceError):
        # The connection broke while in use.
        return DatabaseUnavailable
    if not isinstance(error, psycopg.OperationalError):
        return None
    code = sqlstate_of(error)
    if code is None:
        is_certificate = _CERTIFICATE_MESSAGE.search(str(error)) is not None
        return DatabaseCertificateRejected if is_certificate else DatabaseUnavailable
    return _ERROR_OF_SQLSTATE.get(code) or _ERROR_OF_CLASS.get(code[:2])


@contextmanager
def translate_errors() -> Iterator[None]:
    """Raise errors of psycopg as the matching class of `db.errors`; do not change other errors."""
    try:
        yield
    except psycopg.Error as error:
        error_class = error_class_of(error)
        if error_class is None:
            raise
        raise error_class from error
