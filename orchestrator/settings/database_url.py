"""Checks of a database URL that need no connection. No message quotes text that may belong to a password."""

import re

from psycopg import ProgrammingError, pq
from psycopg.conninfo import conninfo_to_dict, make_conninfo

_SCHEMES = ("postgresql", "postgres")
_SCHEME = re.compile(r"((?:jdbc:)?[A-Za-z][A-Za-z0-9+.-]*)://")
_UNKNOWN_PARAMETER = re.compile(r'invalid URI query parameter: "(\w+)"')
_INVALID_VALUE = re.compile(r'invalid (\w+) value: "')

_WHOLE_NUMBERS = (
    "connect_timeout",
    "keepalives",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_count",
    "tcp_user_timeout",
)

_MALFORMED = (
    "not a database URL like postgresql://USER:PASSWORD@HOST:5432/DATABASE; percent-encode each "
    "character of the password except letters, digits, '-', '.', '_' and '~' ('@' is %40)"
)


def problem_of(url: str) -> str | None:
    """Return a message about the first problem of a database URL, or None if there is none."""
    scheme = _SCHEME.match(url)
    if scheme is not None and scheme[1] not in _SCHEMES:
        return f"the scheme {scheme[1]}:// is not supported; use postgresql://"
    try:
        parts = conninfo_to_dict(url)
    except ProgrammingError as error:
        return _unknown_parameter(url, str(error)) or _MALFORMED
    # An unencoded '@' or '/' in the password moves the rest of it to the host, the port or the database name.
    host, port, database = (str(parts.get(name, "")) for name in ("host", "port", "dbname"))
    if "@" in database or ("@" in host and not host.startswith("/")):
        return _MALFORMED
    ports = [each for each in port.split(",") if each]
    if not all(each.isdecimal() for each in ports):
        return _MALFORMED
    if not all(1 <= int(each) <= 65535 for each in ports):
        return "the port must be 1 to 65535"
    if not (host or parts.get("hostaddr")):
        return "the host is missing; for a Unix socket: postgresql://USER@/DATABASE?host=/run/postgresql"
    if not database:
        return "the name of the database is missing: postgresql://USER:PASSWORD@HOST:5432/DATABASE"
    for name in _WHOLE_NUMBERS:
        if not re.fullmatch(r"-?[0-9]+", str(parts.get(name, 0))):
            return f"the connection parameter {name} must be a whole number"
    return _invalid_value(url)


def _unknown_parameter(url: str, message: str) -> str | None:
    found = _UNKNOWN_PARAMETER.search(message)
    # With an unencoded '/' and '?' in the password, a part of it seems to be a parameter.
    if found is None or "@" in url.partition("?")[2]:
        return None
    return f"PostgreSQL has no connection parameter {found[1]}; remove it from the URL"


def _invalid_value(url: str) -> str | None:
    """Return a message about the parameter whose value libpq rejects, or None.

    libpq checks the values before it connects. No server listens on the socket given here.
    """
    attempt = pq.PGconn.connect_start(make_conninfo(url, host="/dev/null", hostaddr="").encode())
    found = _INVALID_VALUE.search(attempt.error_message.decode(errors="replace"))
    attempt.finish()
    if found is None:
        return None
    values = ": disable, allow, prefer, require, verify-ca or verify-full" if found[1] == "sslmode" else ""
    return f"the connection parameter {found[1]} has an invalid value{values and f'; use one of{values}'}"
