"""Audits through the API, each in a thread: the audit of all orders takes longer than a page may take."""

import threading
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import streamlit as st

from dashboard.data.order_api import OrderApi
from orchestrator.errors import OrderSystemError, ServiceUnavailable
from orchestrator.rest_client import Json


@dataclass(frozen=True)
class AuditState:
    """`started_at` is the start of the running audit (`ended_at` is None), or of the last one."""

    started_at: datetime | None = None
    ended_at: datetime | None = None
    report: Json | None = None
    error: OrderSystemError | None = None

    @property
    def is_running(self) -> bool:
        return self.started_at is not None and self.ended_at is None

    @property
    def seconds(self) -> float:
        assert self.started_at is not None
        return ((self.ended_at or datetime.now(UTC)) - self.started_at).total_seconds()


class AuditJobs:
    """Runs at most one audit of each load test (None: of all orders) at a time, for all users."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._states: dict[str | None, AuditState] = {}

    def state(self, run_id: str | None) -> AuditState:
        return self._states.get(run_id, AuditState())

    def start(self, api: OrderApi, run_id: str | None) -> None:
        """Start an audit with the user's API client, unless the same audit is running."""
        with self._lock:
            if self.state(run_id).is_running:
                return
            self._states[run_id] = AuditState(datetime.now(UTC))
        threading.Thread(target=self._run, args=(api, run_id), name="audit", daemon=True).start()

    def _run(self, api: OrderApi, run_id: str | None) -> None:
        report: Json | None = None
        error: OrderSystemError | None = ServiceUnavailable("The audit ended without a report. Run it again.")
        try:
            report, error = api.audit(run_id), None
        except OrderSystemError as problem:
            error = problem
        finally:
            self._states[run_id] = replace(
                self._states[run_id], ended_at=datetime.now(UTC), report=report, error=error
            )


@st.cache_resource
def audit_jobs() -> AuditJobs:
    return AuditJobs()
