"""Where the stack keeps what, below ORDERS_HOME, and the environment its processes get."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from orchestrator.settings import STACK_MARKER, Settings, environment_names

PROJECT_ROOT = Path(__file__).resolve().parents[2]
"""Where `python -m orchestrator` works."""


@dataclass(frozen=True)
class Layout:
    """The files of one stack."""

    home: Path
    sockets: Path

    @classmethod
    def of(cls, settings: Settings) -> "Layout":
        return cls(home=settings.home, sockets=settings.socket_dir)

    @property
    def control(self) -> Path:
        """The supervisor's directory. Not the one of the sockets: that one belongs to PostgreSQL's
        user when root starts the stack, and nobody but root may write what root executes."""
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
        """What supervisord says before it has its own log."""
        return self.logs / "supervisord.out"

    @property
    def running_settings(self) -> Path:
        """The settings of the running stack; exists once the stack has become healthy."""
        return self.control / "running.json"

    def log(self, component: str) -> Path:
        return self.logs / f"{component}.log"

    def spec(self, component: str) -> Path:
        """How the launcher starts it."""
        return self.control / f"{component}.json"

    def starts(self, component: str) -> Path:
        """One line a start since `up`: process id and Unix time."""
        return self.control / f"{component}.starts"


def stack_environment(settings: Settings) -> dict[str, str]:
    """The caller's environment with exactly these settings in it, for the supervisor and its components.
    The stack's mark keeps them from reading `.env`."""
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
    # Tools that packages put beside the interpreter, even when the virtual environment is not active.
    environment["PATH"] = os.pathsep.join(
        [str(Path(sys.executable).parent), environment.get("PATH", os.defpath)]
    )
    return environment
