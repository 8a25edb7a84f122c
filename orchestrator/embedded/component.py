"""What the stack knows about each of its components: plain data, made in `plan.py`."""

import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.embedded.process_wait import pid_is_alive
from orchestrator.settings import LOOPBACK

if TYPE_CHECKING:
    from orchestrator.embedded.health_checks import Probes


class Stage(IntEnum):
    """Components of a stage start together, once every component of the stages before is healthy."""

    SERVERS = 1
    """PostgreSQL and Temporal. The migrations are applied at the end of this stage."""

    SERVICES = 2
    """Workers and API."""

    SCREENS = 3
    """What talks to the API: dashboard, load generator. They stop first, so that a run is judged while there
    still is somebody to ask."""


@dataclass(frozen=True)
class Account:
    """The user a program runs as when the stack is started by root."""

    uid: int
    gid: int


@dataclass(frozen=True)
class ListeningPort:
    """A port that must be free before the stack starts."""

    number: int
    use: str
    """What it is for, as a message would say it: "the API"."""

    setting: str
    """The environment variable that moves it."""

    address: str = LOOPBACK
    """Where it listens."""


@dataclass(frozen=True)
class RunningProcess:
    """What the supervisor says about the process of a component."""

    name: str
    pid: int
    """0 when it does not run."""

    state: str
    """supervisord's word: RUNNING, STARTING, STOPPED, STOPPING, EXITED, BACKOFF, FATAL."""

    started_at: datetime

    @property
    def runs(self) -> bool:
        """Also asks the system: the supervisor may not have noticed a death yet."""
        return self.pid != 0 and self.state in ("STARTING", "RUNNING") and pid_is_alive(self.pid)


def _nothing() -> None:
    return None


@dataclass(frozen=True)
class Component:
    """One supervised process: how to start it, how to tell that it is well, how to stop it."""

    name: str
    command: tuple[str, ...]
    stage: Stage
    healthy: "Callable[[Probes, RunningProcess], bool]"
    """Whether a process that runs also does its work. May raise nothing."""

    directory: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    prepare: Callable[[], Sequence[str] | None] = _nothing
    """Called before the first start of the stack; makes data directories. Returns what it had to change
    outside of ORDERS_HOME, a sentence each. Raises StackError."""

    account: Callable[[], Account | None] = _nothing
    """Asked after `prepare`; None to run as the caller."""

    stop_signal: signal.Signals = signal.SIGTERM
    stop_seconds: int = 10
    """How long it may take to stop before it is killed."""

    stop_as_group: bool = False
    """Whether the stop signal goes to its children too."""

    death_signal: signal.Signals = signal.SIGKILL
    """What it gets when the supervisor dies."""

    ports: tuple[ListeningPort, ...] = ()
    """The first one is shown as the component's port."""

    socket: Path | None = None


@dataclass(frozen=True)
class ComponentStatus:
    """One line of `ps`."""

    name: str
    pid: int | None
    port: int | None
    socket: str | None
    healthy: bool
    restarts: int
    """How often it was started again since `up`."""

    state: str

    def as_json(self) -> dict[str, object]:
        """`port` or `socket`, whichever the component listens on; a worker has neither."""
        place: dict[str, object] = {"socket": self.socket} if self.socket is not None else {"port": self.port}
        return {
            "name": self.name,
            "pid": self.pid,
            **place,
            "healthy": self.healthy,
            "restarts": self.restarts,
        }
