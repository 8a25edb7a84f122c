"""The description and the status of one component of the stack."""

import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.embedded.process_table import pid_is_alive
from orchestrator.settings import LOOPBACK

if TYPE_CHECKING:
    from orchestrator.embedded.health_checks import HealthChecks


class Stage(IntEnum):
    """A stage starts when all components of earlier stages are healthy, and stops before earlier stages."""

    SERVERS = 1
    """PostgreSQL and Temporal. Migrations are applied at the end of this stage."""

    SERVICES = 2
    """Workers and API."""

    CLIENTS = 3
    """Clients of the API: dashboard and load generator. They stop first: a load test needs the API for its
    verdict."""


@dataclass(frozen=True)
class Account:
    """The user and group of a program, for a stack that root starts."""

    uid: int
    gid: int


@dataclass(frozen=True)
class ListeningPort:
    """A port that must be free before the stack starts."""

    number: int
    purpose: str
    """What the port is for, as text of a message: "the API"."""

    setting: str
    """The environment variable that sets the port."""

    address: str = LOOPBACK


@dataclass(frozen=True)
class RunningProcess:
    """The process of a component, as supervisord reports it. It may have exited."""

    name: str
    pid: int
    """0 if it is not running."""

    state: str
    """supervisord's state: RUNNING, STARTING, STOPPED, STOPPING, EXITED, BACKOFF, FATAL."""

    started_at: datetime

    @property
    def is_alive(self) -> bool:
        """Whether the process is alive. Reads the process table, because supervisord reports an exit late."""
        return self.pid != 0 and self.state in ("STARTING", "RUNNING") and pid_is_alive(self.pid)


Report = Callable[[str], None]
"""Receives one sentence for each action of a start or stop."""


@dataclass(frozen=True)
class Component:
    """One supervised process: its command, health check and shutdown."""

    name: str
    command: tuple[str, ...]
    stage: Stage
    is_healthy: "Callable[[HealthChecks, RunningProcess], bool]"
    """Checks a running process. Must not raise."""

    directory: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    inherits: tuple[str, ...] | None = None
    """Names of the variables that the program receives besides `environment`; None: all of the stack's."""

    prepare: Callable[[Report], None] = lambda _report: None
    """Called before the stack starts, to create data directories. Reports each change outside of ORDERS_HOME.
    Raises StackError."""

    after_start: Callable[[], None] = lambda: None
    """Called when `orders up` has started the component and it is healthy."""

    account: Callable[[], Account | None] = lambda: None
    """Called after `prepare`. If it returns None, the program runs as the user that starts the stack."""

    stop_signal: signal.Signals = signal.SIGTERM
    stop_seconds: int = 10
    """Time between `stop_signal` and SIGKILL."""

    death_signal: signal.Signals = signal.SIGKILL
    """Sent to the process when supervisord dies; on Linux only."""

    ports: tuple[ListeningPort, ...] = ()
    """`orders ps` shows the first one."""

    socket: Path | None = None
    """Unix socket of a component without a port."""


@dataclass(frozen=True)
class ComponentStatus:
    """One line of `orders ps`."""

    name: str
    pid: int | None
    port: int | None
    socket: str | None
    healthy: bool
    restarts: int
    """Since `orders up`."""

    state: str

    def as_json(self) -> dict[str, object]:
        listens: dict[str, object] = (
            {"socket": self.socket} if self.socket is not None else {"port": self.port}
        )
        return {
            "name": self.name,
            "pid": self.pid,
            **listens,
            "healthy": self.healthy,
            "restarts": self.restarts,
        }
