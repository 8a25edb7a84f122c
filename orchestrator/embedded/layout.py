"""Files, programs and process environment of the stack."""

import os
import shutil
import sys
from pathlib import Path

from pydantic import SecretStr

from orchestrator.errors import StackError
from orchestrator.settings import STACK_MARKER, Settings, environment_names
from orchestrator.settings.environment import component_environment

PROJECT_ROOT = Path(__file__).resolve().parents[2]
"""The directory of the packages and of the migrations."""


class Layout:
    """The files of one stack, below ORDERS_HOME."""

    def __init__(self, settings: Settings) -> None:
        self.home = settings.home
        self.sockets = settings.socket_dir
        self.supervisor_socket = self.sockets / "supervisor.sock"
        self.postgres_data = self.home / "postgres"
        self.temporal_data = self.home / "temporal"
        self.logs = self.home / "logs"
        # supervisord's output before it opens its log.
        self.supervisor_output = self.logs / "supervisord.out"
        # Only the supervisor's user may write these files: they contain the commands that it executes. The
        # directory of the sockets belongs to PostgreSQL's user if root starts the stack.
        self.control = self.home / "supervisor"
        self.lock = self.control / "lock"
        self.supervisor_config = self.control / "supervisord.conf"
        self.supervisor_pid = self.control / "supervisord.pid"
        # Settings of the running stack. Written when the stack is healthy.
        self.running_settings = self.control / "running.json"

    def log(self, component: str) -> Path:
        return self.logs / f"{component}.log"

    def spec(self, component: str) -> Path:
        """Input of the launcher."""
        return self.control / f"{component}.json"

    def starts(self, component: str) -> Path:
        """One line for each start since `up`: process id and Unix time."""
        return self.control / f"{component}.starts"


def stack_environment(settings: Settings) -> dict[str, str]:
    """Return the environment of the supervisor and its components, with exactly these settings.

    With STACK_MARKER set, they do not read `.env`.
    """
    environment = component_environment()
    for field_name, names in environment_names().items():
        for name in names:
            environment.pop(name, None)
        value = getattr(settings, field_name)
        # The stack does not receive the API key of its caller.
        if value is not None and field_name != "api_key":
            secret = value.get_secret_value() if isinstance(value, SecretStr) else value
            environment[names[0]] = str(secret)
    environment["ORDERS_HOME"] = str(settings.home)
    environment[STACK_MARKER] = str(settings.home)
    # For programs of the virtual environment, which may not be active.
    environment["PATH"] = os.pathsep.join(
        [str(Path(sys.executable).parent), environment.get("PATH", os.defpath)]
    )
    return environment


def packaged_program(name: str) -> str:
    """Return the path of a program of the virtual environment. Raises StackError if it is not installed."""
    in_environment = Path(sys.executable).parent / name
    if in_environment.exists():
        return str(in_environment)
    found = shutil.which(name)
    if found is None:
        raise StackError(f"The program {name} is not installed. Run `make setup`.")
    return found
