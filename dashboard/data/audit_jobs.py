"""Audits asked of the API, in a thread of their own: one of a whole history takes longer than a page may."""

import threading
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from time import monotonic

import streamlit as st

from dashboard.api_client import OrderApi
from orchestrator.errors import OrderSystemError, ServiceUnavailable
from orchestrator.rest_client import Json

AT_SIGHT_SECONDS = 10.0
"""An audit that took at most so long is made again, unasked, for whoever comes to see changed books."""


@dataclass(frozen=True)
class AuditState:
    """`seconds` is how long the audit under way, or the last one, has taken. `at` is when it ended."""

    is_under_way: bool = False
    seconds: float = 0.0
    report: Json | None = None
    error: OrderSystemError | None = None
    at: datetime | None = None


class AuditJobs:
    """One audit at a time of each run; every viewer sees the same."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._states: dict[str | None, AuditState] = {}
        self._began: dict[str | None, float] = {}
        self._seen: dict[str | None, object] = {}

    def look(self, run_id: str | None) -> AuditState:
        with self._lock:
            state = self._states.get(run_id, AuditState())
            if state.is_under_way:
                return replace(state, seconds=monotonic() - self._began[run_id])
            return state

    def begin(self, api: OrderApi, run_id: str | None) -> None:
        """Begins an audit as the viewer whose API this is, unless one of the same run is under way."""
        with self._lock:
            before = self._states.get(run_id, AuditState())
            if before.is_under_way:
                return
            self._states[run_id] = replace(before, is_under_way=True, error=None)
            self._began[run_id] = monotonic()
        threading.Thread(target=self._carry_out, args=(api, run_id), name="audit", daemon=True).start()

    def begin_at_sight(self, api: OrderApi, run_id: str | None, database: object) -> None:
        """Begins an audit unless these books have been audited, by whomever; `books` changes with them. One
        that takes long, or went wrong, is not begun again until somebody asks for it."""
        with self._lock:
            state = self._states.get(run_id)
            have_changed = self._seen.setdefault(run_id, database) != database
            self._seen[run_id] = database
            is_due = state is None or (
                have_changed and state.report is not None and state.seconds <= AT_SIGHT_SECONDS
            )
        if is_due:
            self.begin(api, run_id)

    def _carry_out(self, api: OrderApi, run_id: str | None) -> None:
        report: Json | None = None
        error: OrderSystemError | None = ServiceUnavailable("The audit ended without a report; try again.")
        try:
            report, error = api.audit(run_id), None
        except OrderSystemError as problem:
            error = problem
        finally:
            with self._lock:
                taken = monotonic() - self._began[run_id]
                self._states[run_id] = AuditState(False, taken, report, error, datetime.now(UTC))


@st.cache_resource
def audit_jobs() -> AuditJobs:
    return AuditJobs()
