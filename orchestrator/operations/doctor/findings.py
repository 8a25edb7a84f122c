"""From readings to findings. Nothing here asks anybody anything."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from orchestrator.operations.doctor.readings import Readings

FLAPPING_MINUTES = 10
FLAPPING_RESTARTS = 3

DISK_BYTES = 1_000_000_000
DISK_SHARE = 0.05
DISK_SHARE_COUNTS_BELOW = 20_000_000_000
"""A twentieth of a large disk is still a lot of room."""

SLOW_ANSWER_MS = 250.0
"""A simple statement takes about 1 ms; an order writes about thirty."""

LONG_STATEMENT_SECONDS = 30.0
LONG_IDLE_SECONDS = 60.0
LONG_WAIT_SECONDS = 2.0
CONNECTIONS_SHARE = 0.8

CLOCK_SECONDS = 1.0
ACCEPTANCE_GAP_SECONDS = 5.0

BACKLOG_AGE_SECONDS = 3.0
UNDO_TRIES = 25
"""Under the worst fault profile that still lets calls through, one undoing in 20,000 comes so far."""

POSTGRES_NEEDED = 180000
TEMPORAL_NEEDED = (1, 28)
DAYS_AHEAD_NEEDED = 1.0


@dataclass(frozen=True)
class Finding:
    """`problem` is wrong now; a `notice` may be wanted, and does not change the exit code."""

    key: str
    what: str
    advice: str
    severity: Literal["problem", "notice"] = "problem"


def diagnose(readings: Readings) -> list[Finding]:
    """Everything that is not as it should be; nothing when all is well. Problems come first."""
    found = [finding for judge in _JUDGES for finding in judge(readings)]
    return sorted(found, key=lambda finding: finding.severity == "notice")


def _stack(readings: Readings) -> Iterator[Finding]:
    stack = readings.stack
    if stack is None:
        return
    if stack.has_died:
        yield Finding(
            "stack-died",
            "The process supervisor was killed, and the stack with it.",
            "Start it again: make up. Nothing is lost; orders go on where they were.",
        )
    elif not stack.is_up:
        yield Finding("stack-down", f"No stack runs in {readings.home}.", "Start it: make up.")
    for process in stack.processes:
        if not process.runs:
            yield Finding(
                "component-down",
                f"{process.name} does not run ({process.state.lower()}).",
                f"See {_log(readings, process.name)}; make down and make up start it again.",
            )
        elif process.restarts >= FLAPPING_RESTARTS:
            yield Finding(
                "component-flapping",
                f"{process.name} was started again {process.restarts} times in {FLAPPING_MINUTES} minutes.",
                f"See why it ends in {_log(readings, process.name)}.",
            )
    for leftover in stack.leftovers:
        yield Finding(
            "leftover",
            f"Left behind by a stack that was killed: {leftover}.",
            "make down clears it away; so does the next make up.",
            "notice",
        )


def _ports(readings: Readings) -> Iterator[Finding]:
    if readings.stack is None:
        return
    for port in readings.ports:
        if readings.stack.is_up and not port.is_listening:
            yield Finding(
                "port-silent",
                f"Nobody listens on port {port.number}, which is {port.use}'s.",
                "See whether its component runs: python -m orchestrator ps.",
            )
        if not readings.stack.is_up and port.is_listening:
            yield Finding(
                "port-taken",
                f"Port {port.number} for {port.use} is taken{port.taken_by}; the stack could not start.",
                f"Free it, set {port.setting} to another port, or move all ports at once with PORT_BASE.",
            )


def _api(readings: Readings) -> Iterator[Finding]:
    if readings.api_answers is False:
        means = (
            "Start it, or set API_URL to where it is."
            if readings.stack is None
            else f"See {_log(readings, 'api')}; python -m orchestrator kill api starts it anew."
        )
        yield Finding("api-silent", "The API does not answer.", means)


def _disk(readings: Readings) -> Iterator[Finding]:
    disk = readings.disk
    is_small_share = disk.free_bytes < disk.total_bytes * DISK_SHARE
    if disk.free_bytes < DISK_BYTES or (is_small_share and disk.free_bytes < DISK_SHARE_COUNTS_BELOW):
        yield Finding(
            "disk-full",
            f"The disk of {disk.place} is nearly full: {disk.free_bytes / 1e9:.1f} GB free of "
            f"{disk.total_bytes / 1e9:.0f} GB.",
            "Free some space; old events go with python -m orchestrator retention --keep 90d.",
        )


def _database(readings: Readings) -> Iterator[Finding]:
    database = readings.database
    if database is None:
        return
    if database.why_away is not None:
        means = (
            f"See {_log(readings, 'postgres')}."
            if readings.is_embedded["database"]
            else "Start that server, or correct DATABASE_URL."
        )
        yield Finding(
            "database-away", f"PostgreSQL does not answer as it should: {database.why_away}.", means
        )
        return
    if database.version < POSTGRES_NEEDED:
        yield Finding(
            "database-old",
            f"PostgreSQL is {database.version_text}, and {POSTGRES_NEEDED // 10000} or newer is needed.",
            "Upgrade that server, or unset DATABASE_URL to use the embedded one.",
        )
    if database.pending_migrations:
        yield Finding(
            "migrations-pending",
            f"The database lacks {len(database.pending_migrations)} migrations of this code: "
            f"{', '.join(database.pending_migrations)}.",
            "Apply them: make down, then make up."
            if readings.is_embedded["database"]
            else "Apply them as the owner of the tables: python -m orchestrator migrate.",
        )
    if database.unknown_migrations:
        yield Finding(
            "migrations-unknown",
            "The database has migrations that this code does not know: "
            f"{', '.join(database.unknown_migrations)}.",
            "A newer release has been here; run that one.",
        )
    if database.connections > database.max_connections * CONNECTIONS_SHARE:
        yield Finding(
            "database-connections",
            f"{database.connections} of PostgreSQL's {database.max_connections} connections are taken.",
            "Raise max_connections, or run fewer workers; pg_stat_activity says whose they are.",
        )
    if database.days_ahead is not None and database.days_ahead < DAYS_AHEAD_NEEDED:
        yield Finding(
            "partitions-missing",
            "There are no partitions for the events of the days to come.",
            "Order workers make them once an hour; their logs say why not.",
        )


def _slow_database(readings: Readings) -> Iterator[Finding]:
    database = readings.database
    if database is None or database.why_away is not None:
        return
    if database.answer_ms > SLOW_ANSWER_MS:
        yield Finding(
            "database-slow",
            f"PostgreSQL took {database.answer_ms:.0f} ms for a statement that should take 1 ms.",
            "Look at the load of its machine and disk, and at the long statements below, if there are any.",
        )
    for session in database.statements:
        who = f"Session {session.pid} ({session.application or 'unnamed'})"
        end_it = f"If it is not wanted: select pg_terminate_backend({session.pid})."
        if session.waits and session.seconds >= LONG_WAIT_SECONDS:
            yield Finding(
                "database-locked",
                f"{who} has been waiting {session.seconds:.0f} s for a lock: {session.statement}",
                f"select pg_blocking_pids({session.pid}) says who holds it.",
            )
        elif session.is_idle and session.seconds >= LONG_IDLE_SECONDS:
            yield Finding(
                "database-idle-transaction",
                f"{who} has left a transaction open for {session.seconds:.0f} s; old rows stay till it ends.",
                end_it,
            )
        elif not session.is_idle and not session.waits and session.seconds >= LONG_STATEMENT_SECONDS:
            yield Finding(
                "database-long-statement",
                f"{who} has been at one statement for {session.seconds:.0f} s: {session.statement}",
                end_it,
            )


def _temporal(readings: Readings) -> Iterator[Finding]:
    temporal = readings.temporal
    if temporal is None:
        return
    if temporal.why_away is not None:
        means = (
            f"See {_log(readings, 'temporal')}."
            if readings.is_embedded["temporal"]
            else "Start that server, or correct TEMPORAL_ADDRESS."
        )
        yield Finding("temporal-away", f"Temporal does not answer as it should: {temporal.why_away}.", means)
        return
    if _numbers(temporal.version) < TEMPORAL_NEEDED:
        yield Finding(
            "temporal-old",
            f"The Temporal server is {temporal.version}, and {'.'.join(map(str, TEMPORAL_NEEDED))} or newer "
            "is needed.",
            "Upgrade that server.",
        )
    for queue in temporal.queues:
        if not queue.is_served:
            yield Finding(
                "queue-unserved",
                f"Nobody asks for work on task queue {queue.name}: its orders stand still, and "
                f"{queue.backlog} tasks wait.",
                "Start workers: make up, or python -m orchestrator worker all.",
            )
        elif queue.backlog_age_seconds >= BACKLOG_AGE_SECONDS:
            yield Finding(
                "queue-backlog",
                f"{queue.backlog} tasks wait on task queue {queue.name}, the oldest for "
                f"{queue.backlog_age_seconds:.0f} s.",
                "Start more workers for it, or let fewer orders in.",
            )
    if temporal.idle_builds:
        yield Finding(
            "no-current-version",
            f"Workers of version {' and '.join(temporal.idle_builds)} run, and no version is current: "
            "Temporal gives them no new orders.",
            f"Make it current: python -m orchestrator versions set-current {temporal.idle_builds[-1]}.",
        )
    if len(temporal.builds) > 1:
        yield Finding(
            "several-versions",
            f"Workers of several code versions are at work: {', '.join(temporal.builds)}.",
            "Right while a new version takes over; otherwise stop the old ones.",
            "notice",
        )


def _orders(readings: Readings) -> Iterator[Finding]:
    database = readings.database
    if database is None or database.why_away is not None:
        return
    if database.overdue:
        yield Finding(
            "orders-overdue",
            f"{database.overdue} orders are past their deadline and have no outcome, for example "
            f"{', '.join(database.overdue_examples)}.",
            "python -m orchestrator history ID shows what each waits for.",
        )
    if database.stuck_undoing:
        yield Finding(
            "undoing-repeated",
            f"Refund or recall has been tried {UNDO_TRIES} times and more, for example of "
            f"{', '.join(database.stuck_undoing)}.",
            "Ask whether the payment provider and the warehouse answer; it goes on until it succeeds.",
        )


def _clocks(readings: Readings) -> Iterator[Finding]:
    advice = "Set both clocks by the same time server; deadlines and latencies are wrong until then."
    database, temporal = readings.database, readings.temporal
    if database is not None and abs(database.clock_ahead_seconds) > CLOCK_SECONDS:
        yield Finding(
            "clock-database", _differs("The database's clock", database.clock_ahead_seconds), advice
        )
    if temporal is not None and temporal.clock_ahead_seconds > CLOCK_SECONDS:
        yield Finding("clock-temporal", _differs("Temporal's clock", temporal.clock_ahead_seconds), advice)
    gap = None if database is None else database.acceptance_gap_seconds
    if gap is not None and gap > ACCEPTANCE_GAP_SECONDS:
        yield Finding(
            "clock-acceptance",
            f"The last orders came into the books {gap:.0f} s after Temporal accepted them, at the soonest.",
            "Either workers are far behind, or Temporal's clock is behind the database's.",
        )


def _differs(whose: str, seconds: float) -> str:
    return f"{whose} is {abs(seconds):.1f} s {'ahead of' if seconds > 0 else 'behind'} this machine's."


def _log(readings: Readings, component: str) -> Path:
    return readings.home / "logs" / f"{component}.log"


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("-")[0].split(".") if part.isdecimal())


_JUDGES: tuple[Callable[[Readings], Iterator[Finding]], ...] = (
    _stack, _ports, _api, _disk, _database, _slow_database, _temporal, _orders, _clocks,
)  # fmt: skip
