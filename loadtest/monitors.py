"""What is looked at while a run is under way: whether the system is there, and how its books stand."""

import time
from collections.abc import Callable
from datetime import UTC, datetime

import gevent

from loadtest.generator.api_client import ApiClient
from loadtest.post_run import audit
from loadtest.verdict.verdict_rows import audit_text
from orchestrator.errors import OrderSystemError, ServiceUnavailable

PROBE_SECONDS = 1.0

AUDIT_EVERY_SECONDS = 15.0
AUDIT_SHARE = 0.05
"""An audit that takes long is made less often: it shall not take more than this share of the time."""


class Outages:
    """Whether the system was there during the run, asked once a second."""

    def __init__(self, api: ApiClient) -> None:
        self._api = api
        self._seconds: dict[str, float] = {}
        self._asked_at: float | None = None

    def watch(self) -> None:
        """Asks until it is killed; `settle` follows."""
        while True:
            gevent.sleep(PROBE_SECONDS)
            self._asked_at = time.monotonic()
            missing = self._ask()
            self._count(missing)
            self._asked_at = None

    def settle(self) -> None:
        """Counts the question that nobody has answered yet."""
        if self._asked_at is not None and time.monotonic() - self._asked_at >= PROBE_SECONDS:
            self._count(["the API did not answer"])
        self._asked_at = None

    def told(self) -> list[str]:
        """One sentence for each part that was away."""
        return [f"{what} for about {max(seconds, 1):.0f} s" for what, seconds in self._seconds.items()]

    def _ask(self) -> list[str]:
        try:
            answer = self._api.get("/health", "health")
        except ServiceUnavailable:
            return ["the API did not answer"]
        parts = (("database_connected", "PostgreSQL"), ("temporal_connected", "Temporal"))
        return [f"{name} was away" for part, name in parts if answer.body.get(part) is False]

    def _count(self, missing: list[str]) -> None:
        """Adds the pause before the question and the time that it took: one that hangs is no instant."""
        assert self._asked_at is not None, "something was asked"
        for what in missing:
            away = PROBE_SECONDS + time.monotonic() - self._asked_at
            self._seconds[what] = self._seconds.get(what, 0.0) + away


class InterimAudit:
    """The audit of the orders that have their outcome, made in the background for who looks at the run."""

    def __init__(
        self, api_url: str, api_key: str | None, run_id: str, broken_promises: Callable[[], list[str]]
    ) -> None:
        self._api_url = api_url
        self._api_key = api_key
        self._run_id = run_id
        self._broken_promises = broken_promises
        self._found = "not audited yet"
        self._asking: gevent.Greenlet[..., None] | None = None
        self._next_at = 0.0

    def look(self) -> str:
        """What the last audit has found; has the next one made when it is time. Returns at once."""
        if (self._asking is None or self._asking.ready()) and time.monotonic() >= self._next_at:
            self._asking = gevent.spawn(self._ask)
        return self._found

    def end(self) -> None:
        """The run is over, and gets its own audit."""
        if self._asking is not None:
            self._asking.kill()

    def _ask(self) -> None:
        began = time.monotonic()
        try:
            found = audit(self._api_url, self._api_key, self._run_id)
        except OrderSystemError as error:
            self._found = f"so far not audited: {error}"
        else:
            database = found | {"audited": True, "broken_promises": self._broken_promises()}
            self._found = f"so far ({datetime.now(UTC):%H:%M:%S} UTC) {audit_text(database)}"
        took = time.monotonic() - began
        self._next_at = began + max(AUDIT_EVERY_SECONDS, took / AUDIT_SHARE)
