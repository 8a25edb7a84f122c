"""Monitors the availability of the system during a run."""

import logging
import time

import gevent

from loadtest.generator.api_client import ApiClient
from orchestrator.errors import ServiceUnavailable

PROBE_SECONDS = 1.0

log = logging.getLogger(__name__)


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
            try:
                self._add(self._probe())
            except Exception:
                # An unexpected response is no outage, and must not end the probes.
                log.exception("the availability probe failed")
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
