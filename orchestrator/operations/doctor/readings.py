"""What the doctor has looked at. A part that did not answer says why; what was not asked is None."""

from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path


@dataclass(frozen=True)
class ProcessReading:
    """A component under the supervisor. `restarts` counts the last FLAPPING_MINUTES."""

    name: str
    runs: bool
    state: str
    restarts: int = 0


@dataclass(frozen=True)
class StackReading:
    """The embedded stack of this ORDERS_HOME.

    `leftovers` are sockets and processes that nobody supervises any more.
    """

    is_up: bool
    has_died: bool = False
    processes: tuple[ProcessReading, ...] = ()
    leftovers: tuple[str, ...] = ()


@dataclass(frozen=True)
class PortReading:
    """`taken_by` names the listening process where that can be seen, as " by process 7 (nginx)"."""

    number: int
    use: str
    setting: str
    is_listening: bool
    taken_by: str = ""


@dataclass(frozen=True)
class DiskReading:
    place: Path
    free_bytes: int
    total_bytes: int


@dataclass(frozen=True)
class StatementReading:
    """A session that has been at something for a while. `waits` when it waits for a lock."""

    pid: int
    application: str
    seconds: float
    statement: str
    is_idle: bool = False
    waits: bool = False


@dataclass(frozen=True)
class DatabaseReading:
    """`clock_ahead_seconds` is against this machine; negative when the database is behind."""

    why_away: str | None = None
    version: int = 0
    """As PostgreSQL numbers them: 180004."""

    version_text: str = ""
    answer_ms: float = 0.0
    clock_ahead_seconds: float = 0.0
    connections: int = 0
    hidden_connections: int = 0
    """Those of them that are other users': what they do cannot be seen."""

    max_connections: int = 100
    statements: tuple[StatementReading, ...] = ()
    pending_migrations: tuple[str, ...] = ()
    unknown_migrations: tuple[str, ...] = ()
    days_ahead: float | None = None
    """How many days of partitions there are to come; None where the migrations do not know them yet."""

    overdue: int = 0
    overdue_examples: tuple[str, ...] = ()
    stuck_undoing: tuple[str, ...] = ()
    """Orders whose refund or recall has been tried UNDO_TRIES times and more."""

    acceptance_gap_seconds: float | None = None
    """The least time between the acceptance by Temporal's clock and the first event by the database's, of the
    last orders; None without any."""


@dataclass(frozen=True)
class QueueReading:
    """`backlog` tasks wait, the oldest for `backlog_age_seconds`."""

    name: str
    is_served: bool
    backlog: int = 0
    backlog_age_seconds: float = 0.0


@dataclass(frozen=True)
class TemporalReading:
    why_away: str | None = None
    version: str = ""
    queues: tuple[QueueReading, ...] = ()
    builds: tuple[str, ...] = ()
    """Code versions of the live workers."""

    idle_builds: tuple[str, ...] = ()
    """The same, when none of them is current and no live worker is without a version: none gets an order."""

    clock_ahead_seconds: float = 0.0
    """At least so much is the server ahead of this machine; 0 when that does not show."""


@dataclass(frozen=True)
class Readings:
    """One look at everything."""

    at: datetime
    home: Path
    disk: DiskReading
    stack: StackReading | None
    """None where no stack has run and none is needed, since both servers are external."""

    ports: tuple[PortReading, ...] = ()
    api_answers: bool | None = None
    database: DatabaseReading | None = None
    """None when it is the stack's, and the stack is down; the same for Temporal."""

    temporal: TemporalReading | None = None
    is_embedded: dict[str, bool] = field(default_factory=lambda: {"database": True, "temporal": True})
