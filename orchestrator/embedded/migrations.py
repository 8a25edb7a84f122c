"""Migrations of the order database, applied by dbmate, which takes a lock for it."""

import subprocess
from typing import TYPE_CHECKING
from urllib.parse import quote, urlencode

from orchestrator.embedded.layout import PROJECT_ROOT, packaged_program
from orchestrator.errors import StackError
from orchestrator.settings import Settings
from orchestrator.settings.environment import server_environment
from orchestrator.startup.findings import first_line, refuse

if TYPE_CHECKING:
    import psycopg
    from psycopg.abc import ConnDict

MIGRATIONS = PROJECT_ROOT / "db" / "migrations"

LOCK_TIMEOUT = "60s"

_DBMATE_PARAMETERS = ("sslmode", "sslrootcert", "sslcert", "sslkey", "options")
"""The parameters of a database URL that dbmate's driver knows. It would send others to the server."""

URL_VARIABLE = "ORDERS_MIGRATIONS_URL"
"""Passes the URL to dbmate. Other users can list command lines, and the URL can contain a password."""


def migrate(settings: Settings) -> None:
    """Apply all pending migrations. On the embedded server, create the database first if necessary.

    Raises StackError with dbmate's last line if a migration fails, or an external server is unavailable, and
    StartRefused if an external server is too old or has the schema of a newer release.
    """
    if settings.uses_embedded_postgres:
        # `up` also creates the database. On an external server, its owner creates it.
        url, command = settings.order_database_url, "up"
    elif (external := _url_for_dbmate(settings)) is not None:
        url, command = external, "migrate"
    else:
        return
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
        # dbmate reads the file .env of its working directory; this directory has none.
        cwd=MIGRATIONS,
        env={**server_environment(), URL_VARIABLE: url},
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


def _url_for_dbmate(settings: Settings) -> str | None:
    """Return the URL of the connection that libpq makes: dbmate's driver has other defaults and parameters.
    None if no migration is pending: dbmate's lock needs a session, which a pooler may not provide.

    Raises StackError if the connection fails, and StartRefused if the server or its schema does not fit.
    """
    # Imported here, because the driver takes 0.1 s to load and most commands do not need it.
    import psycopg
    from psycopg.conninfo import conninfo_to_dict

    from db.maintenance.diagnostics import server_state
    from orchestrator.startup.database import version_findings
    from orchestrator.startup.servers import run_check

    url = settings.order_database_url
    given = conninfo_to_dict(url)
    try:
        with psycopg.connect(url, connect_timeout=5) as connection:
            url_for_dbmate = _url_of_connection(connection, given)
    except psycopg.Error as error:
        host = given.get("host") or given.get("hostaddr")
        raise StackError(
            f"Cannot connect to the database server of DATABASE_URL ({host}): {first_line(error)}. "
            "Correct DATABASE_URL, or unset it to use the embedded server."
        ) from None
    state = run_check(server_state(url))
    refuse(version_findings(state))
    return url_for_dbmate if state.pending_migrations else None


def _url_of_connection(connection: "psycopg.Connection", given: "ConnDict") -> str:
    """Return the URL of an open connection. `given` are the parameters of the database URL."""
    info = connection.info
    query = {name: str(given[name]) for name in _DBMATE_PARAMETERS if name in given}
    if query.get("sslmode") not in ("verify-ca", "verify-full"):
        query["sslmode"] = "require" if connection.pgconn.ssl_in_use else "disable"
    query |= {"host": info.host, "port": str(info.port)}
    user = quote(info.user, safe="") + (f":{quote(info.password, safe='')}" if info.password else "")
    return f"postgres://{user}@/{quote(info.dbname, safe='')}?{urlencode(query, quote_via=quote)}"
