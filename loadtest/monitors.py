"""Monitors that run beside the orders: availability of the system, and interim audits."""

import time
from collections.abc import Callable
from datetime import UTC, datetime

import gevent

from loadtest.generator.api_client import ApiClient
from loadtest.verdict.verdict_rows import audit_text
from orchestrator.errors import OrderSystemError, ServiceUnavailable
from orchestrator.rest_client import Json

PROBE_SECONDS = 1.0

AUDIT_INTERVAL_SECONDS = 15.0
AUDIT_SHARE = 0.05
"""Maximum share of the time that interim audits may take; slow audits run less often."""


class OutageMonitor:
    """Probes the health of the system once a second, and adds up how long each component was unavailable."""

    def __init__(self, api: ApiClient) -> None:
        self._api = api
        self._seconds: dict[str, float] = {}
        self._probed_at: float | None = None

    def watch(self) -> None:
        """Probe until this greenlet is killed. Call `finish` then."""
        while True:
            gevent.sleep(PROBE_SECONDS)
            self._probed_at = time.monotonic()
            self._add(self._probe())
            self._probed_at = None

    def finish(self) -> None:
        """Count a probe that has no response yet."""
        if self._probed_at is not None and time.monotonic() - self._probed_at >= PROBE_SECONDS:
            self._add(["the API"])
        self._probed_at = None

    def outages(self) -> list[str]:
        """Return one sentence for each component that was unavailable."""
        return [
            f"{component} was unavailable for about {max(seconds, 1):.0f} s"
            for component, seconds in self._seconds.items()
        ]

    def _probe(self) -> list[str]:
        """Return the unavailable components."""
        try:
            health = self._api.get("/health", "health").body
        except ServiceUnavailable:
            return ["the API"]
        checks = (("database_connected", "PostgreSQL"), ("temporal_connected", "Temporal"))
        return [component for check, component in checks if health.get(check) is False]

    def _add(self, components: list[str]) -> None:
        """Add the pause before the probe and the time of the probe, which can hang for seconds."""
        assert self._probed_at is not None, "a probe was sent"
        for component in components:
            unavailable = PROBE_SECONDS + time.monotonic() - self._probed_at
            self._seconds[component] = self._seconds.get(component, 0.0) + unavailable


class InterimAudit:
    """Audits the finished orders of a running test in the background, for display."""

    def __init__(self, audit: Callable[[], Json], broken_promises: Callable[[], list[str]]) -> None:
        self._audit = audit
        self._broken_promises = broken_promises
        self._result = "not audited yet"
        self._running: gevent.Greenlet[..., None] | None = None
        self._next_at = 0.0

    def latest(self) -> str:
        """Return the result of the latest audit at once, and start the next audit when it is due."""
        if (self._running is None or self._running.ready()) and time.monotonic() >= self._next_at:
            self._running = gevent.spawn(self._run)
        return self._result

    def stop(self) -> None:
        if self._running is not None:
            self._running.kill()

    def _run(self) -> None:
        began = time.monotonic()
        try:
            report = self._audit()
        except OrderSystemError as error:
            self._result = f"so far not audited: {error}"
        else:
            database = report | {"audited": True, "broken_promises": self._broken_promises()}
            self._result = f"so far ({datetime.now(UTC):%H:%M:%S} UTC) {audit_text(database)}"
        took = time.monotonic() - began
        self._next_at = began + max(AUDIT_INTERVAL_SECONDS, took / AUDIT_SHARE)
