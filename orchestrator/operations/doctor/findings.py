"""From observations to findings, without any I/O."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from db.maintenance.diagnostics import Session
from orchestrator.operations.doctor.observations import Observations

RESTART_WINDOW_MINUTES = 10
MAX_RESTARTS = 3

DISK_BYTES = 1_000_000_000
DISK_SHARE = 0.05
DISK_SHARE_APPLIES_BELOW_BYTES = 20_000_000_000
"""5 % of a large disk is still enough space."""

SLOW_RESPONSE_MS = 250.0
"""A simple statement takes about 1 ms. An order executes about 30 statements."""

LONG_STATEMENT_SECONDS = 30.0
LONG_IDLE_SECONDS = 60.0
LONG_WAIT_SECONDS = 2.0
CONNECTIONS_SHARE = 0.8

CLOCK_SECONDS = 1.0
ACCEPTANCE_GAP_SECONDS = 5.0

BACKLOG_AGE_SECONDS = 3.0
COMPENSATION_ATTEMPTS = 25
"""Under the worst fault profile in which calls can succeed, 1 compensation in 20,000 needs that many."""

MIN_POSTGRES = 180000
MIN_TEMPORAL = (1, 28)


@dataclass(frozen=True)
class Finding:
    """A `problem` needs action. A `notice` may be intended and does not change the exit code."""

    key: str
    message: str
    advice: str
    severity: Literal["problem", "notice"] = "problem"


def diagnose(observed: Observations) -> list[Finding]:
    """Return all findings, problems first; none if the system is healthy."""
    found = [finding for check in _CHECKS for finding in check(observed)]
    return sorted(found, key=lambda finding: finding.severity == "notice")


def _stack(observed: Observations) -> Iterator[Finding]:
    stack = observed.stack
    if stack is None:
        return
    if stack.has_died:
        yield Finding(
            "stack-died",
            "The process supervisor was killed, and the stack with it.",
            "Start the stack: make up. No order is lost; orders in progress continue.",
        )
    elif not stack.is_up:
        yield Finding("stack-down", f"No stack is running in {observed.home}.", "Start it: make up.")
    for process in stack.processes:
        if not process.runs:
            yield Finding(
                "component-down",
                f"{process.name} is not running ({process.state.lower()}).",
                f"Read {_log(observed, process.name)}, then restart the stack: make down, make up.",
            )
        elif process.recent_restarts >= MAX_RESTARTS:
            yield Finding(
                "component-restarting",
                f"{process.name} restarted {process.recent_restarts} times in the last "
                f"{RESTART_WINDOW_MINUTES} minutes.",
                f"Read in {_log(observed, process.name)} why it exits.",
            )
    for orphan in stack.orphans:
        yield Finding(
            "orphan",
            f"A killed stack left {orphan}.",
            "make down removes it, and so does the next make up.",
            "notice",
        )


def _ports(observed: Observations) -> Iterator[Finding]:
    if observed.stack is None:
        return
    for port in observed.ports:
        if observed.stack.is_up and not port.is_listening:
            yield Finding(
                "port-closed",
                f"No process listens on port {port.number} ({port.use}).",
                "Check whether its component is running: orders ps.",
            )
        if not observed.stack.is_up and port.is_listening:
            yield Finding(
                "port-taken",
                f"Port {port.number} for {port.use} is in use{port.used_by}; the stack cannot start.",
                f"Free it, set {port.setting} to another port, or move all ports with PORT_BASE.",
            )


def _api(observed: Observations) -> Iterator[Finding]:
    if observed.api_responds is False:
        advice = (
            "Start it, or set API_URL to its address."
            if observed.stack is None
            else f"Read {_log(observed, 'api')}. Restart the API: orders kill api."
        )
        yield Finding("api-unavailable", "The API does not respond.", advice)


def _disk(observed: Observations) -> Iterator[Finding]:
    disk = observed.disk
    is_small_share = disk.free_bytes < disk.total_bytes * DISK_SHARE
    if disk.free_bytes < DISK_BYTES or (is_small_share and disk.free_bytes < DISK_SHARE_APPLIES_BELOW_BYTES):
        yield Finding(
            "disk-full",
            f"The disk of {disk.path} is nearly full: {disk.free_bytes / 1e9:.1f} GB free of "
            f"{disk.total_bytes / 1e9:.0f} GB.",
            "Free some space. Deleting old events lets PostgreSQL reuse their space: orders retention --keep 90d.",
        )


def _database(observed: Observations) -> Iterator[Finding]:
    database, is_embedded = observed.database, observed.has_embedded_postgres
    if observed.database_error is not None:
        yield Finding(
            "database-unavailable",
            f"PostgreSQL is unavailable: {observed.database_error}.",
            f"Read {_log(observed, 'postgres')}."
            if is_embedded
            else "Start that server, or correct DATABASE_URL.",
        )
    if database is None:
        return
    if database.version < MIN_POSTGRES:
        yield Finding(
            "database-old",
            f"PostgreSQL is {database.version_text}; {MIN_POSTGRES // 10000} or newer is required.",
            "Upgrade that server, or unset DATABASE_URL to use the embedded one.",
        )
    if database.pending_migrations:
        yield Finding(
            "migrations-pending",
            f"{len(database.pending_migrations)} migrations are not applied: "
            f"{', '.join(database.pending_migrations)}.",
            "Apply them: make down, then make up."
            if is_embedded
            else "Apply them as the owner of the tables: orders migrate.",
        )
    if database.unknown_migrations:
        yield Finding(
            "migrations-unknown",
            f"The database has migrations of a newer release: {', '.join(database.unknown_migrations)}.",
            "Run that release.",
        )
    if database.connections > database.max_connections * CONNECTIONS_SHARE:
        yield Finding(
            "database-connections",
            f"{database.connections} of PostgreSQL's {database.max_connections} connections are in use.",
            "Raise max_connections, or run fewer workers. pg_stat_activity lists the connections.",
        )


def _slow_database(observed: Observations) -> Iterator[Finding]:
    database = observed.database
    if database is None:
        return
    if database.response_ms > SLOW_RESPONSE_MS:
        yield Finding(
            "database-slow",
            f"PostgreSQL took {database.response_ms:.0f} ms for a statement that usually takes 1 ms.",
            "Check the CPU and disk load of its machine.",
        )
    for session in database.sessions:
        yield from _session(session)


def _session(session: Session) -> Iterator[Finding]:
    name = f"Session {session.pid} ({session.application or 'unnamed'})"
    terminate = f"To end it: select pg_terminate_backend({session.pid})."
    if session.waits and session.seconds >= LONG_WAIT_SECONDS:
        yield Finding(
            "database-locked",
            f"{name} has been waiting {session.seconds:.0f} s for a lock: {session.statement}",
            f"To see which session holds it: select pg_blocking_pids({session.pid}).",
        )
    elif session.is_idle and session.seconds >= LONG_IDLE_SECONDS:
        yield Finding(
            "database-idle-transaction",
            f"{name} has been idle in a transaction for {session.seconds:.0f} s; VACUUM cannot remove "
            "dead rows meanwhile.",
            terminate,
        )
    elif not session.is_idle and not session.waits and session.seconds >= LONG_STATEMENT_SECONDS:
        yield Finding(
            "database-long-statement",
            f"{name} has been executing one statement for {session.seconds:.0f} s: {session.statement}",
            terminate,
        )


def _temporal(observed: Observations) -> Iterator[Finding]:
    temporal = observed.temporal
    if observed.temporal_error is not None:
        yield Finding(
            "temporal-unavailable",
            f"Temporal is unavailable: {observed.temporal_error}.",
            f"Read {_log(observed, 'temporal')}."
            if observed.has_embedded_temporal
            else "Start that server, or correct TEMPORAL_ADDRESS.",
        )
    if temporal is None:
        return
    if _numbers(temporal.version) < MIN_TEMPORAL:
        yield Finding(
            "temporal-old",
            f"The Temporal server is {temporal.version}; {'.'.join(map(str, MIN_TEMPORAL))} or newer is "
            "required.",
            "Upgrade that server.",
        )
    for queue in temporal.queues:
        if not queue.has_workers:
            yield Finding(
                "queue-without-workers",
                f"Task queue {queue.name} has no active workers; {queue.backlog} tasks are waiting.",
                "Start workers: make up, or orders worker all.",
            )
        elif queue.backlog_age_seconds >= BACKLOG_AGE_SECONDS:
            yield Finding(
                "queue-backlog",
                f"{queue.backlog} tasks are waiting on task queue {queue.name}, the oldest for "
                f"{queue.backlog_age_seconds:.0f} s.",
                "Start more workers for it, or reduce the rate of new orders.",
            )


def _versions(observed: Observations) -> Iterator[Finding]:
    temporal = observed.temporal
    if temporal is None:
        return
    set_current = f"temporal worker deployment set-current-version --deployment-name {temporal.deployment}"
    if temporal.idle_builds:
        yield Finding(
            "no-current-version",
            f"Workers of version {' and '.join(temporal.idle_builds)} are running, but no version is "
            "current: they receive no new orders.",
            f"Make one current: {set_current} --build-id {temporal.idle_builds[-1]}.",
        )
    if temporal.current_build_lacks:
        yield Finding(
            "current-version-incomplete",
            f"No worker of the current version {temporal.current_build} has served "
            f"{' and '.join(temporal.current_build_lacks)}: its orders wait.",
            f"Start those workers, or make another version current: {set_current} --build-id ID.",
        )
    if len(temporal.builds) > 1:
        yield Finding(
            "several-versions",
            f"Workers of several versions are running: {', '.join(temporal.builds)}.",
            "This is expected during a deployment. Otherwise stop the old workers.",
            "notice",
        )


def _orders(observed: Observations) -> Iterator[Finding]:
    database = observed.database
    if database is None:
        return
    if database.overdue:
        yield Finding(
            "orders-overdue",
            f"{database.overdue} orders are past their deadline without an outcome, for example "
            f"{', '.join(database.overdue_examples)}.",
            "To see the events of an order: orders history ID.",
        )
    if database.repeated_compensations:
        yield Finding(
            "compensation-repeated",
            f"Refund or recall has failed {COMPENSATION_ATTEMPTS} times or more, for example for "
            f"{', '.join(database.repeated_compensations)}.",
            "Check the payment provider and the warehouse. The system retries until it succeeds.",
        )


def _clocks(observed: Observations) -> Iterator[Finding]:
    advice = (
        "Synchronize both clocks with the same time server. Deadlines and latencies are wrong until then."
    )
    database, temporal = observed.database, observed.temporal
    if database is not None and abs(database.clock_ahead_seconds) > CLOCK_SECONDS:
        yield Finding("clock-database", _offset("The database's clock", database.clock_ahead_seconds), advice)
    if temporal is not None and temporal.clock_ahead_seconds > CLOCK_SECONDS:
        yield Finding("clock-temporal", _offset("Temporal's clock", temporal.clock_ahead_seconds), advice)
    gap = None if database is None else database.acceptance_gap_seconds
    if gap is not None and gap > ACCEPTANCE_GAP_SECONDS:
        yield Finding(
            "clock-acceptance",
            f"Each of the most recent orders reached the database {gap:.0f} s or more after Temporal "
            "accepted it.",
            "Either the workers are overloaded, or Temporal's clock is behind the database's.",
        )


def _offset(clock: str, seconds: float) -> str:
    return f"{clock} is {abs(seconds):.1f} s {'ahead of' if seconds > 0 else 'behind'} this machine's."


def _log(observed: Observations, component: str) -> Path:
    return observed.home / "logs" / f"{component}.log"


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("-")[0].split(".") if part.isdecimal())


_CHECKS: tuple[Callable[[Observations], Iterator[Finding]], ...] = (
    _stack, _ports, _api, _disk, _database, _slow_database, _temporal, _versions, _orders, _clocks,
)  # fmt: skip
