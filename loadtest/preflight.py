"""Checks before a run: a run that cannot succeed is refused before it is stored."""

from collections.abc import Iterator
from contextlib import contextmanager

from psycopg.errors import UndefinedTable

from db import runs
from loadtest.generator.api_client import ApiClient, UntrustedCertificate
from loadtest.options import RunOptions
from orchestrator.errors import (
    DatabaseError,
    DatabaseUnavailable,
    LockTimeout,
    ServiceUnavailable,
    UsageError,
)
from orchestrator.security.key_hashing import Role


def check_api(api: ApiClient, url: str) -> None:
    """Raises UsageError unless all components of the system behind the API are healthy."""
    try:
        response = api.get("/health", "health")
    except UntrustedCertificate as error:
        raise UsageError(str(error)) from None
    except ServiceUnavailable:
        raise UsageError(f"The API at {url} is not responding. Start the stack with `make up`.") from None
    if not response.is_ok:
        checks = ("temporal_connected", "database_connected", "workers_healthy")
        failed = ", ".join(check.split("_")[0] for check in checks if not response.body.get(check, True))
        raise UsageError(f"The order system at {url} is not healthy ({failed or response.status}).")


def check_role(role: Role | None, options: RunOptions) -> None:
    """Raises UsageError unless the role of API_KEY (None: not a valid key) allows the run.

    Disturbances need the role although the run makes them itself, without the API.
    """
    if role is None:
        raise UsageError("The API rejected API_KEY: the key is missing or invalid.")
    needed = options.required_role
    if role < needed:
        raise UsageError(f"This run needs a key of role {needed.word}; API_KEY has role {role.word}.")


def check_stored_runs(database_url: str, options: RunOptions, faults_since: str | None) -> None:
    """Raises UsageError for a used run id, a missing run to compare with, or another run that uses faults.

    `faults_since` identifies the active fault profile; None if this run does not set one.
    """
    with require_database():
        if runs.run_id_exists(database_url, options.run_id):
            raise used_run_id(options.run_id)
        if options.compare is not None:
            earlier = runs.find(database_url, options.compare)
            if earlier is None or earlier.completion_ms is None:
                raise UsageError(f"There is no finished run {options.compare} to compare with.")
        other = None if faults_since is None else runs.run_that_set_faults(database_url, faults_since)
    if other is not None:
        raise UsageError(
            f"Run {other} has set the fault profile and has not ended. Wait for its end; if it has crashed, "
            "reset the profile: python -m orchestrator faults set none"
        )


def used_run_id(run_id: str) -> UsageError:
    return UsageError(f"Run id {run_id} was used before; choose another.")


@contextmanager
def require_database() -> Iterator[None]:
    """Raise UsageError in place of a database error of the block."""
    try:
        yield
    except LockTimeout:
        raise UsageError("Another load test is starting and has not begun. Try again shortly.") from None
    except DatabaseUnavailable:
        raise UsageError(
            "PostgreSQL, which stores runs, is not responding at DATABASE_URL. Start the stack with "
            "`make up`, or correct DATABASE_URL."
        ) from None
    except UndefinedTable:
        raise UsageError(
            "The database of DATABASE_URL has no table of load tests. Apply the migrations: orders migrate"
        ) from None
    except DatabaseError as error:
        raise UsageError(f"The run cannot be stored: {error}") from None
