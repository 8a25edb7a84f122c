"""Monitors beside the orders, and calls after the run."""

import time

import gevent
import pytest

from loadtest import monitors, post_run
from loadtest.generator.api_client import ApiClient, ApiResponse, NoResponse
from loadtest.monitors import OutageMonitor
from loadtest.post_run import PostRunCalls
from orchestrator.errors import ServiceUnavailable


class HangingApi(ApiClient):
    """Hangs for `seconds`, then breaks the connection."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def get(self, path: str, name: str) -> ApiResponse:
        gevent.sleep(self._seconds)
        raise NoResponse(f"{path}: {name}")


@pytest.mark.parametrize("has_ended", [True, False])
def test_the_time_of_a_hanging_probe_counts_as_outage(
    has_ended: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(monitors, "PROBE_SECONDS", 0.2)
    monitor = OutageMonitor(HangingApi(2.1 if has_ended else 60.0))
    watching = gevent.spawn(monitor.watch)
    # The second probe has been sent, or the first one still hangs.
    watching.join(timeout=2.31 if has_ended else 2.0)
    watching.kill()
    monitor.finish()
    assert monitor.outages() == ["the API was unavailable for about 2 s"]


class FailingApi(ApiClient):
    """Responds with something unexpected, then not at all."""

    def __init__(self) -> None:
        self.probes = 0

    def get(self, path: str, name: str) -> ApiResponse:
        self.probes += 1
        if self.probes == 1:
            raise LookupError("unexpected")
        raise NoResponse(f"{path}: {name}")


def test_an_unexpected_response_does_not_end_the_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitors, "PROBE_SECONDS", 0.01)
    api = FailingApi()
    monitor = OutageMonitor(api)
    watching = gevent.spawn(monitor.watch)
    with gevent.Timeout(10):
        while api.probes < 3:
            gevent.sleep(0.01)
    watching.kill()
    monitor.finish()
    assert monitor.outages() == ["the API was unavailable for about 1 s"]


def test_all_calls_after_a_run_share_one_retry_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(post_run, "RETRY_BUDGET_SECONDS", 1.0)
    attempts: list[str] = []

    def fail(name: str) -> None:
        attempts.append(name)
        raise ServiceUnavailable("not responding")

    began = time.monotonic()
    calls = PostRunCalls()
    for name in ("faults", "audit", "csv"):
        assert calls.attempt(lambda name=name: fail(name), f"no {name}") is None  # type: ignore[misc]
    assert time.monotonic() - began < 2.5
    assert calls.failures == [f"no {name}: not responding" for name in ("faults", "audit", "csv")]
    assert attempts.count("faults") >= 2
    assert attempts.count("csv") == 1


def test_an_audit_is_repeated_until_every_workflow_was_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(post_run, "RETRY_SECONDS", 0.01)
    monkeypatch.setattr(post_run, "LISTED_SECONDS", 0.2)
    uncompared = [3, 1, 0, 7]
    assert post_run.complete_audit(lambda: {"uncompared": uncompared.pop(0)}) == {"uncompared": 0}
    assert post_run.complete_audit(lambda: {"uncompared": 2}) == {"uncompared": 2}, "the last one"


def test_a_long_call_that_fails_leaves_time_for_a_retry(monkeypatch: pytest.MonkeyPatch) -> None:
    """An audit runs for minutes; then the API is restarted."""
    monkeypatch.setattr(post_run, "RETRY_BUDGET_SECONDS", 1.0)
    monkeypatch.setattr(post_run, "FAILED_CALL_SECONDS", 0.2)
    attempts: list[int] = []

    def audit() -> str:
        attempts.append(1)
        if len(attempts) == 1:
            gevent.sleep(1.5)
            raise ServiceUnavailable("the connection was broken")
        return "clean"

    assert PostRunCalls().attempt(audit, "not audited") == "clean"
