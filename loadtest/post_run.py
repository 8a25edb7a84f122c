"""Calls to the system after a run, while components may still be recovering."""

import logging
import time
from collections.abc import Callable
from typing import TypeVar

import gevent

from loadtest.generator.api_client import ApiClient
from orchestrator.errors import OrderSystemError, ServiceUnavailable
from orchestrator.rest_client import AUDIT_SECONDS, Json

T = TypeVar("T")

RETRY_BUDGET_SECONDS = 30.0
"""Time that all calls after a run may spend on retries while the API or PostgreSQL is unavailable."""

FAILED_CALL_SECONDS = 5.0
"""Maximum time that one failed call takes from the budget: an audit can fail after minutes."""

BUSY_SECONDS = AUDIT_SECONDS
"""How long to retry an audit that the API rejects with 429 because another audit is running."""

RETRY_SECONDS = 0.5

LISTED_SECONDS = 15.0
"""Time that Temporal's visibility may lag behind closed workflows."""

log = logging.getLogger(__name__)


class PostRunCalls:
    """Retries failed calls; all calls of one run share one retry budget."""

    def __init__(self) -> None:
        self._left_seconds = RETRY_BUDGET_SECONDS
        self.failures: list[str] = []
        """One sentence for each call that failed."""

    def attempt(self, call: Callable[[], T], failure: str) -> T | None:
        """Return the result of `call`, or None if it fails after the retry budget is used up.

        `failure` is the description of a failed call in `failures`.
        """
        while True:
            began = time.monotonic()
            try:
                return call()
            except OrderSystemError as error:
                self._left_seconds -= min(time.monotonic() - began, FAILED_CALL_SECONDS)
                if self._left_seconds <= 0:
                    self.failures.append(f"{failure}: {error}")
                    log.error("after the run: %s: %s", failure, error)
                    return None
            gevent.sleep(RETRY_SECONDS)
            self._left_seconds -= RETRY_SECONDS


def complete_audit(audit: Callable[[], Json]) -> Json:
    """Repeat an audit until it compared every finished order with its workflow.

    If Temporal does not list all workflows in time, the last audit is returned, with some orders uncompared.
    Raises ServiceUnavailable if there is no audit.
    """
    not_after = time.monotonic() + LISTED_SECONDS
    while (report := audit())["uncompared"] and time.monotonic() < not_after:
        gevent.sleep(RETRY_SECONDS)
    return report


def audit_run(api_url: str, api_key: str | None, run_id: str) -> Json:
    """Return the audit report of a run, as soon as the API has room for it.

    Raises ServiceUnavailable if it was not completed.
    """
    busy_until = time.monotonic() + BUSY_SECONDS
    client = ApiClient(api_url, read_seconds=AUDIT_SECONDS, api_key=api_key)
    try:
        while (response := client.get(f"/audit?run_id={run_id}")).status == 429:
            if time.monotonic() > busy_until:
                break
            gevent.sleep(RETRY_SECONDS)
    finally:
        client.close()
    if not response.is_ok or "clean" not in response.body:
        problem = response.body.get("detail", "the response was incomplete")
        raise ServiceUnavailable(f"the audit was not completed: {problem}")
    return response.body
