"""The facts that the doctor collects."""

from dataclasses import dataclass
from pathlib import Path

from db.maintenance.diagnostics import DatabaseState


@dataclass(frozen=True)
class ProcessState:
    """A component under the supervisor."""

    name: str
    runs: bool
    state: str
    recent_restarts: int = 0
    """Within the last RESTART_WINDOW_MINUTES."""


@dataclass(frozen=True)
class StackState:
    """The embedded stack of this ORDERS_HOME."""

    is_up: bool
    has_died: bool = False
    processes: tuple[ProcessState, ...] = ()
    orphans: tuple[str, ...] = ()
    """Sockets and processes that a killed stack left."""


@dataclass(frozen=True)
class PortState:
    number: int
    use: str
    setting: str
    is_listening: bool
    used_by: str = ""
    """The listening process if it can be identified, for example " by process 7 (nginx)"."""


@dataclass(frozen=True)
class DiskSpace:
    path: Path
    free_bytes: int
    total_bytes: int


@dataclass(frozen=True)
class QueueState:
    name: str
    has_workers: bool
    backlog: int = 0
    backlog_age_seconds: float = 0.0
    """Age of the oldest waiting task."""


@dataclass(frozen=True)
class TemporalState:
    version: str
    queues: tuple[QueueState, ...] = ()
    deployment: str = ""
    """Name of our worker deployment."""

    builds: tuple[str, ...] = ()
    """Code versions of the live workers."""

    idle_builds: tuple[str, ...] = ()
    """The same, if no version is current and every live worker has a version: none receives orders."""

    current_build: str | None = None
    current_build_lacks: tuple[str, ...] = ()
    """Task queues that no worker of the current version serves."""

    clock_ahead_seconds: float = 0.0
    """Lower bound, relative to this machine; 0 if the server is not known to be ahead."""


@dataclass(frozen=True)
class Observations:
    home: Path
    disk: DiskSpace
    stack: StackState | None
    """None if no stack is needed, because both servers are external."""

    ports: tuple[PortState, ...] = ()
    api_responds: bool | None = None
    database: DatabaseState | None = None
    database_error: str | None = None
    """Why PostgreSQL is unavailable. An embedded server is not called while the stack is down."""

    temporal: TemporalState | None = None
    temporal_error: str | None = None
    has_embedded_postgres: bool = True
    has_embedded_temporal: bool = True
