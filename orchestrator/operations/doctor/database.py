"""Findings about the order database and its orders."""

import asyncio
from collections.abc import Callable, Iterator

import psycopg

from db.maintenance.diagnostics import DatabaseState, Session, database_state
from orchestrator.embedded.layout import Layout
from orchestrator.errors import DatabaseError
from orchestrator.operations.doctor.report import Report
from orchestrator.settings import Settings
from orchestrator.startup import database as startup
from orchestrator.startup.findings import Finding, first_line

CHECK_SECONDS = 3.0

SLOW_RESPONSE_MS = 250.0
"""A simple statement takes about 1 ms. An order executes about 30 statements."""

LONG_STATEMENT_SECONDS = 30.0
LONG_IDLE_SECONDS = 60.0
LONG_WAIT_SECONDS = 2.0
CONNECTIONS_SHARE = 0.8
ACCEPTANCE_GAP_SECONDS = 5.0

COMPENSATION_ATTEMPTS = 25
"""Under the worst fault profile in which calls can succeed, 1 compensation in 20,000 needs that many."""


async def check(settings: Settings, clock: Callable[[], float]) -> Report:
    """Check the order database, which may be unavailable."""
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            state = await database_state(
                settings.order_database_url, compensation_attempts=COMPENSATION_ATTEMPTS, clock=clock
            )
    except (DatabaseError, TimeoutError, psycopg.Error) as error:
        cause = error if isinstance(error, psycopg.Error) else error.__cause__
        reason = first_line(cause) or "no response in time"
        log = Layout(settings).log("postgres")
        advice = (
            f"Read {log}."
            if settings.uses_embedded_postgres
            else "Start that server, or correct DATABASE_URL."
        )
        return Report([Finding("database-unavailable", f"PostgreSQL is unavailable: {reason}.", advice)])
    report = Report(list(database_findings(state, is_embedded=settings.uses_embedded_postgres)))
    report.measurements.append(
        f"database  PostgreSQL {state.version_text}, response in {state.response_ms:.1f} ms, "
        f"{state.connections} of {state.max_connections} connections"
    )
    if state.hidden_connections:
        report.measurements.append(
            f"          {state.hidden_connections} connections belong to other users; their locks and "
            "statements are not visible"
        )
    return report


def database_findings(state: DatabaseState, *, is_embedded: bool) -> Iterator[Finding]:
    yield from startup.database_findings(state, is_embedded=is_embedded)
    yield from _server_findings(state)
    for session in state.sessions:
        yield from _session_findings(session)
    yield from _order_findings(state)


def _server_findings(state: DatabaseState) -> Iterator[Finding]:
    if state.response_ms > SLOW_RESPONSE_MS:
        yield Finding(
            "database-slow",
            f"PostgreSQL took {state.response_ms:.0f} ms for a statement that usually takes 1 ms.",
            "Check the CPU and disk load of its machine.",
        )
    if state.connections > state.max_connections * CONNECTIONS_SHARE:
        yield Finding(
            "database-connections",
            f"{state.connections} of PostgreSQL's {state.max_connections} connections are in use.",
            "Raise max_connections, or run fewer workers. pg_stat_activity lists the connections.",
        )


def _session_findings(session: Session) -> Iterator[Finding]:
    name = f"Session {session.pid} ({session.application or 'unnamed'})"
    terminate = f"To end it: select pg_terminate_backend({session.pid})."
    if session.waits_for_lock and session.seconds >= LONG_WAIT_SECONDS:
        yield Finding(
            "database-locked",
            f"{name} has been waiting {session.seconds:.0f} s for a lock: {session.statement}",
            f"To see which session holds it: select pg_blocking_pids({session.pid}).",
        )
    elif session.is_idle and session.seconds >= LONG_IDLE_SECONDS:
        yield Finding(
            "database-idle-transaction",
            f"{name} has been idle in a transaction for {session.seconds:.0f} s; until it ends, VACUUM "
            "cannot remove dead rows.",
            terminate,
        )
    elif not session.is_idle and not session.waits_for_lock and session.seconds >= LONG_STATEMENT_SECONDS:
        yield Finding(
            "database-long-statement",
            f"{name} has been executing one statement for {session.seconds:.0f} s: {session.statement}",
            terminate,
        )


def _order_findings(state: DatabaseState) -> Iterator[Finding]:
    if state.overdue:
        yield Finding(
            "orders-overdue",
            f"{state.overdue} orders are past their deadline without an outcome, for example "
            f"{', '.join(state.overdue_examples)}.",
            "To see the events of an order: orders history ID.",
        )
    if state.repeated_compensations:
        yield Finding(
            "compensation-repeated",
            f"Refund or recall has failed {COMPENSATION_ATTEMPTS} times or more, for example for "
            f"{', '.join(state.repeated_compensations)}.",
            "Check the payment provider and the warehouse. The system retries until it succeeds.",
        )
    if state.faults_left is not None:
        profile, run_id = state.faults_left
        yield Finding(
            "faults-left",
            f"The fault profile {profile} is still active. Load test {run_id}, which set it, has ended.",
            "To remove it: orders faults set none.",
        )
    gap = state.acceptance_gap_seconds
    if gap is not None and gap > ACCEPTANCE_GAP_SECONDS:
        yield Finding(
            "clock-acceptance",
            f"Each of the most recent orders reached the database {gap:.0f} s or more after Temporal "
            "accepted it.",
            "Either the workers are overloaded, or Temporal's clock is behind the database's.",
        )
