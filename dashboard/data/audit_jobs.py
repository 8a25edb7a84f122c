"""Audits through the API, each in a thread: auditing a whole history takes longer than a page may."""

import threading
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from time import monotonic

import streamlit as st

from dashboard.data.order_api import OrderApi
from orchestrator.errors import OrderSystemError, ServiceUnavailable
from orchestrator.rest_client import Json

AUTOMATIC_SECONDS = 10.0
"""An audit that took at most this long runs again automatically when the data has changed."""


@dataclass(frozen=True)
class AuditState:
    """`seconds` is the duration of the running audit, or of the last one, which ended `at`."""

    is_running: bool = False
    seconds: float = 0.0
    report: Json | None = None
    error: OrderSystemError | None = None
    at: datetime | None = None


class AuditJobs:
    """Runs at most one audit of each load test (None: of all orders) at a time, for all viewers."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._states: dict[str | None, AuditState] = {}
        self._started: dict[str | None, float] = {}
        self._versions: dict[str | None, object] = {}

    def state(self, run_id: str | None) -> AuditState:
        with self._lock:
            state = self._states.get(run_id, AuditState())
            if state.is_running:
                return replace(state, seconds=monotonic() - self._started[run_id])
            return state

    def start(self, api: OrderApi, run_id: str | None) -> None:
        """Start an audit with the viewer's API client, unless the same audit is running."""
        with self._lock:
            state = self._states.get(run_id, AuditState())
            if state.is_running:
                return
            self._states[run_id] = replace(state, is_running=True, error=None)
            self._started[run_id] = monotonic()
        threading.Thread(target=self._run, args=(api, run_id), name="audit", daemon=True).start()

    def start_if_due(self, api: OrderApi, run_id: str | None, version: object) -> None:
        """Start an audit unless this version of the data has one.

        An audit that failed or took longer than AUTOMATIC_SECONDS runs again only through `start`.
        """
        with self._lock:
            state = self._states.get(run_id)
            is_changed = self._versions.setdefault(run_id, version) != version
            self._versions[run_id] = version
            is_due = state is None or (
                is_changed and state.report is not None and state.seconds <= AUTOMATIC_SECONDS
            )
        if is_due:
            self.start(api, run_id)

    def _run(self, api: OrderApi, run_id: str | None) -> None:
        report: Json | None = None
        error: OrderSystemError | None = ServiceUnavailable("The audit ended without a report. Run it again.")
        try:
            report, error = api.audit(run_id), None
        except OrderSystemError as problem:
            error = problem
        finally:
            with self._lock:
                seconds = monotonic() - self._started[run_id]
                self._states[run_id] = AuditState(False, seconds, report, error, datetime.now(UTC))


@st.cache_resource
def audit_jobs() -> AuditJobs:
    return AuditJobs()
