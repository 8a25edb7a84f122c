"""Files, programs and process environment of the stack."""

import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import StackError
from orchestrator.settings import STACK_MARKER, Settings, environment_names

PROJECT_ROOT = Path(__file__).resolve().parents[2]
"""The directory of the packages and of the migrations."""


@dataclass(frozen=True)
class Layout:
    """The files of one stack, below ORDERS_HOME."""

    home: Path
    sockets: Path

    @classmethod
    def of(cls, settings: Settings) -> "Layout":
        return cls(home=settings.home, sockets=settings.socket_dir)

    @property
    def control(self) -> Path:
        """The supervisor's files. Only its user may write them: they contain the commands that it executes.

        The directory of the sockets belongs to PostgreSQL's user if root starts the stack.
        """
        return self.home / "supervisor"

    @property
    def logs(self) -> Path:
        return self.home / "logs"

    @property
    def postgres_data(self) -> Path:
        return self.home / "postgres"

    @property
    def temporal_data(self) -> Path:
        return self.home / "temporal"

    @property
    def lock(self) -> Path:
        return self.control / "lock"

    @property
    def supervisor_config(self) -> Path:
        return self.control / "supervisord.conf"

    @property
    def supervisor_pid(self) -> Path:
        return self.control / "supervisord.pid"

    @property
    def supervisor_socket(self) -> Path:
        return self.sockets / "supervisor.sock"

    @property
    def supervisor_output(self) -> Path:
        """supervisord's output before it opens its log."""
        return self.logs / "supervisord.out"

    @property
    def running_settings(self) -> Path:
        """Settings of the running stack. Written when the stack is healthy."""
        return self.control / "running.json"

    def log(self, component: str) -> Path:
        return self.logs / f"{component}.log"

    def spec(self, component: str) -> Path:
        """Input of the launcher."""
        return self.control / f"{component}.json"

    def starts(self, component: str) -> Path:
        """One line for each start since `up`: process id and Unix time."""
        return self.control / f"{component}.starts"


def stack_environment(settings: Settings) -> dict[str, str]:
    """Return the environment of the supervisor and its components: the caller's, with exactly these settings.

    With STACK_MARKER set, they do not read `.env`.
    """
    environment = dict(os.environ)
    for field_name, names in environment_names().items():
        for name in names:
            environment.pop(name, None)
        value = getattr(settings, field_name)
        if value is not None:
            environment[names[0]] = str(value)
    environment["ORDERS_HOME"] = str(settings.home)
    environment[STACK_MARKER] = str(settings.home)
    environment["PYTHONUNBUFFERED"] = "1"
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
