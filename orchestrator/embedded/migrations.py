"""Migrations of the order database, applied by dbmate, which takes a lock for it."""

import os
import subprocess
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit, urlunsplit

from orchestrator.embedded.layout import PROJECT_ROOT, packaged_program
from orchestrator.errors import StackError
from orchestrator.settings import Settings

MIGRATIONS = PROJECT_ROOT / "db" / "migrations"

LOCK_TIMEOUT = "60s"

URL_VARIABLE = "ORDERS_MIGRATIONS_URL"
"""The URL can contain a password, and other users can list command lines."""


def migrate(settings: Settings) -> None:
    """Apply all pending migrations. On the embedded server, create the database first if necessary.

    Raises StackError with dbmate's last line if a migration fails, or an external server is unavailable.
    """
    if settings.uses_embedded_postgres:
        # `up` also creates the database, which on an external server is up to its owner.
        url, command = settings.order_database_url, "up"
    else:
        url, command = _with_ssl_mode(settings.order_database_url), "migrate"
    done = subprocess.run(
        [
            packaged_program("dbmate"),
            *("--env", URL_VARIABLE),
            *("--migrations-dir", str(MIGRATIONS)),
            "--no-dump-schema",
            "--migration-lock",
            *("--migration-lock-timeout", LOCK_TIMEOUT),
            command,
        ],
        env={**os.environ, URL_VARIABLE: url},
        capture_output=True,
        text=True,
        errors="replace",
    )
    if done.returncode != 0:
        output = (done.stderr or done.stdout).strip().splitlines() or ["no output"]
        raise StackError(
            f"A migration of {MIGRATIONS} failed: {output[-1]}. Correct the cause "
            "and start again: each migration is applied as a whole or not at all."
        )


def _with_ssl_mode(url: str) -> str:
    """Return the URL with an explicit sslmode, by a test connection with libpq.

    By default libpq falls back to a connection without TLS, but dbmate's driver does not. Raises StackError
    if the connection fails.
    """
    import psycopg

    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query))
    if query.get("sslmode") in ("disable", "require", "verify-ca", "verify-full"):
        return url
    try:
        with psycopg.connect(url, connect_timeout=5) as connection:
            query["sslmode"] = "require" if connection.pgconn.ssl_in_use else "disable"
    except psycopg.Error as error:
        host = parts.hostname or unquote(query.get("host", "default host"))
        reason = str(error).strip().splitlines()[0]
        raise StackError(
            f"Cannot connect to the database server of DATABASE_URL ({host}): {reason}. "
            "Correct DATABASE_URL, or unset it to use the embedded server."
        ) from None
    return urlunsplit(parts._replace(query=urlencode(query, quote_via=quote)))
