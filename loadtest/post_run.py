"""What is asked of the system once a run is over, while parts of it may still be coming back."""

import json
import logging
import time
from collections.abc import Callable
from typing import TypeVar

import gevent

from loadtest.generator.api_client import ApiClient
from orchestrator.errors import OrderSystemError, ServiceUnavailable
from orchestrator.rest_client import Json

T = TypeVar("T")

PATIENCE_SECONDS = 30.0
"""How long the API and PostgreSQL may take to come back, before the verdict goes without them."""

AUDIT_SECONDS = 120.0
"""How long an audit may say nothing: it tells its progress once the invariants in SQL are through."""

RETRY_SECONDS = 0.5

LISTED_SECONDS = 15.0
"""How long Temporal may take to list workflows that have closed: its list lags behind them."""

log = logging.getLogger(__name__)


class Afterwards:
    """Asks again while a part is away: all questions of one run share one time to give up."""

    def __init__(self) -> None:
        self._give_up = time.monotonic() + PATIENCE_SECONDS
        self.missing: list[str] = []
        """One sentence for each thing that could not be had or done."""

    def ask(self, question: Callable[[], T], otherwise: str) -> T | None:
        """The answer; None when the part stays away, and then `otherwise` is among what is missing. Each
        question is asked once at least."""
        while True:
            try:
                return question()
            except OrderSystemError as error:
                if time.monotonic() > self._give_up:
                    self.missing.append(f"{otherwise}: {error}")
                    log.error("after the run: %s: %s", otherwise, error)
                    return None
            gevent.sleep(RETRY_SECONDS)


def complete_audit(api_url: str, api_key: str | None, run_id: str) -> Json:
    """The audit of a run in which every judged order was compared with its workflow; the last one there was
    when Temporal does not list them all in time. Raises ServiceUnavailable when there is none."""
    give_up = time.monotonic() + LISTED_SECONDS
    while (found := audit(api_url, api_key, run_id))["uncompared"] and time.monotonic() < give_up:
        gevent.sleep(RETRY_SECONDS)
    return found


def audit(api_url: str, api_key: str | None, run_id: str) -> Json:
    """The audit of a run, which takes as long as it takes: it comes with its progress.

    Raises ServiceUnavailable when there is none.
    """
    client = ApiClient(api_url, read_seconds=AUDIT_SECONDS, api_key=api_key)
    try:
        lines = client.text(f"/audit?run_id={run_id}&progress=true").splitlines()
    finally:
        client.close()
    try:
        told: Json = json.loads(lines[-1]) if lines else {}
    except ValueError:
        told = {}
    if "report" not in told:
        problem = told.get("problem", {}).get("detail", "it broke off")
        raise ServiceUnavailable(f"the audit was not finished: {problem}")
    report: Json = told["report"]
    return report
