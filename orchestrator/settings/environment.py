"""Environment variables of other programs, which must not change the behavior of this system."""

import os
import re
from collections.abc import Iterable, Mapping

from orchestrator.errors import SettingsError

_LIBPQ_PREFIX = "PG"

_COMPONENT_PREFIXES = (_LIBPQ_PREFIX, "PYTHON", "STREAMLIT_", "LOCUST_", "UVICORN_")
"""Variables that could redirect or break a component that the stack starts."""

SERVER_VARIABLES = ("PATH", "HOME", "TMPDIR", "LD_LIBRARY_PATH")
"""The variables that PostgreSQL, Temporal and the programs of `packaged_program` receive. Without a locale,
their messages are in English."""

_LOCAL_ADDRESSES = ("127.0.0.1", "localhost", "::1")

_SERVICE_LINK = re.compile(r"(tcp|udp|sctp)://")


def isolate_process() -> None:
    """Remove libpq's variables from the environment of this process, and exempt this machine from proxies.

    PGPORT, PGSERVICE or PGOPTIONS would change connections to the embedded PostgreSQL, and also connections
    to a server whose URL does not have these parameters.
    """
    for name in list(os.environ):
        if name.startswith(_LIBPQ_PREFIX):
            del os.environ[name]
    # Some clients read only one of the two spellings.
    for name in ("no_proxy", "NO_PROXY"):
        exempt = [each for each in os.environ.get(name, "").split(",") if each]
        os.environ[name] = ",".join([*exempt, *(each for each in _LOCAL_ADDRESSES if each not in exempt)])


def component_environment() -> dict[str, str]:
    """Return the environment without the variables that could change a component."""
    return {name: value for name, value in os.environ.items() if not name.startswith(_COMPONENT_PREFIXES)} | {
        "PYTHONUNBUFFERED": "1",
        "PYTHONUTF8": "1",
    }


def server_environment() -> dict[str, str]:
    return {name: os.environ[name] for name in SERVER_VARIABLES if name in os.environ}


def is_service_link(name: str, value: str | None) -> bool:
    """Return whether Kubernetes has set this variable for a service.

    For a service `api`, each pod has API_PORT=tcp://10.96.0.13:8000.
    """
    return name.upper().endswith("_PORT") and _SERVICE_LINK.match(value or "") is not None


def service_links(names: Iterable[str]) -> list[str]:
    """Return those of the variables that Kubernetes has set for a service."""
    return [name for name in names if is_service_link(name, os.environ.get(name))]


def reject_conflicts(values: Mapping[str, str | None], names_of_setting: tuple[str, ...]) -> None:
    """Raise SettingsError if a setting has different values under its current and an older name."""
    current, *older = names_of_setting
    for name in older:
        if values.get(current) and values.get(name) and values[current] != values[name]:
            raise SettingsError(f"{current} and {name}, its older name, have different values; unset {name}.")
