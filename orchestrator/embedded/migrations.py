"""The migrations of the books, applied by dbmate. Safe when two processes start at once."""

import os
import subprocess
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit, urlunsplit

from orchestrator.embedded.layout import PROJECT_ROOT
from orchestrator.embedded.packaged_programs import packaged_program
from orchestrator.errors import StackError
from orchestrator.settings import Settings

MIGRATIONS = PROJECT_ROOT / "db" / "migrations"

LOCK_TIMEOUT = "60s"

URL_VARIABLE = "ORDERS_MIGRATIONS_URL"
"""The URL may hold a password, which must not be on a command line that everybody can list."""


def migrate(settings: Settings) -> None:
    """Makes the database if there is none, and brings it to the newest migration.

    Raises StackError with dbmate's last words when a migration cannot be applied, and when an external
    server does not answer.
    """
    url = (
        settings.order_database_url
        if settings.uses_embedded_postgres
        else _with_ssl_mode(settings.order_database_url)
    )
    # On an external server the database is somebody else's to make.
    command = "up" if settings.uses_embedded_postgres else "migrate"
    for last_try in (False, True):
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
        if done.returncode == 0:
            return
        # The lock is inside the database, so two may try to make the database; the loser finds it made.
        if last_try or not settings.uses_embedded_postgres:
            words = (done.stderr or done.stdout).strip().splitlines()
            reason = words[-1] if words else "no reason given"
            raise StackError(
                f"The migrations of the database could not be applied: {reason}. Mend what it says and start "
                f"again; each migration of {MIGRATIONS} is applied as a whole or not at all."
            )


def _with_ssl_mode(url: str) -> str:
    """The URL as dbmate's driver needs it: libpq tries TLS and then does without, that driver insists on
    TLS unless told. So libpq is asked what it agreed on with the server.

    Raises StackError when the server does not let us in.
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
        place = parts.hostname or unquote(query.get("host", "its default place"))
        reason = str(error).strip().splitlines()[0]
        raise StackError(
            f"The database server of DATABASE_URL ({place}) does not let us in: {reason}. "
            "Correct DATABASE_URL, or unset it to use the embedded server."
        ) from None
    return urlunsplit(parts._replace(query=urlencode(query, quote_via=quote)))
