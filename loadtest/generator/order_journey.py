"""The journey of one order: its start, the requests of customers and reviewers, and its outcome."""

import math
import time
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any
from uuid import uuid4

import gevent

from loadtest.generator.api_client import ApiClient, ApiResponse, NoResponse
from loadtest.generator.recording import Ending, OrderRecord, Recorder
from orchestrator.rest_client import Json

WAIT_SECONDS = 10.0
RETRY_SECONDS = 0.2
REQUEST_RETRIES = 3
LATE_RETRY_SECONDS = 1.0
"""Pause between status requests about an order that is late in any case."""

USUAL_SECONDS = 5.0
"""Time within which most orders finish under the `assignment` faults (p50 3.6 s, p99 7 s)."""

_ADDRESS = {"street": "1 Main Street", "city": "Springfield", "state": "IL", "zip": "62701"}
_SENDER = "loadtest"
_PATHS = {
    "cancel": "signals/cancel",
    "address": "signals/update-address",
    "approve": "signals/approve",
    "reject": "signals/reject",
}
_TOO_LATE_NAMES = {request: {409: f"{request}, too late"} for request in _PATHS}
_REJECTED_NAMES = {429: "start, rejected"}


class OrderJourney:
    """One order. A scenario starts it and sends requests; the recorder gets every result."""

    def __init__(
        self,
        api: ApiClient,
        recorder: Recorder,
        run_id: str,
        record: OrderRecord,
        seed: int,
        slo_seconds: float,
        execution: str | None = None,
    ) -> None:
        self.record = record
        self.order_id = f"{run_id}-{record.number}"
        self.random = Random(f"{seed}/{record.number}")
        self._api = api
        self._recorder = recorder
        self._slo_seconds = slo_seconds
        self._sent = time.perf_counter()
        self._due_at = datetime.now(UTC) - timedelta(milliseconds=record.send_delay_ms)
        self._body: Json = {"run_id": run_id}
        if execution is not None:
            self._body["execution"] = execution
        # The accepted request after which the order must not complete.
        self._aborted_by: str | None = None

    @property
    def is_over(self) -> bool:
        return self.record.ending is not None

    def start(self, review: str = "auto") -> bool:
        """Start the order, with retries while there is no response. Returns whether it was accepted.

        If the limit passes without an acknowledgement, the status of the order decides: unknown to the API
        means not accepted. While the API returns no status, the order stays open, until the drain ends.
        """
        self._body |= {
            "initial_address": _ADDRESS,
            "review": review,
            "requested_at": self._due_at.isoformat(timespec="milliseconds"),
        }
        not_after = self._sent + self._slo_seconds
        while True:
            response = self._send("start", self._body, "start", expected=(200, 429), names=_REJECTED_NAMES)
            if response is not None and response.is_ok:
                self._recorder.accepted(self.record, self._sent)
                return True
            if (response is not None and response.status < 500) or time.perf_counter() >= not_after:
                break
            self.record.retries += 1
            gevent.sleep(RETRY_SECONDS)
        is_rejected = response is not None and response.status == 429
        ending = Ending.REJECTED if is_rejected else Ending.NOT_ACCEPTED
        if is_rejected and not self.record.retries:
            self._recorder.ended_without_outcome(self.record, ending)
            return False
        # An earlier response may have been lost although the order was accepted.
        while not self._check_status(ending):
            gevent.sleep(LATE_RETRY_SECONDS)
        return not self.is_over

    def wait_for_outcome(self, seconds: float = math.inf) -> None:
        """Wait at most `seconds` for the outcome, and record it."""
        not_after = time.perf_counter() + seconds
        while not self.is_over and (left := min(WAIT_SECONDS, not_after - time.perf_counter())) > 0:
            requested = time.perf_counter()
            response = self._status(left)
            is_useful = response is not None and self._record_status(response)
            if not self.is_over and (not is_useful or time.perf_counter() - requested < RETRY_SECONDS):
                # An API that is unavailable or stopping responds immediately. The pause prevents a busy loop.
                gevent.sleep(min(RETRY_SECONDS, left))

    def random_moment(self) -> float:
        """Return a uniformly random number of seconds within the usual completion time of an order."""
        return self.random.uniform(0, USUAL_SECONDS)

    def wait(self, seconds: float) -> None:
        """Wait `seconds`; an outcome in this time is recorded when it is seen."""
        moment = time.perf_counter() + seconds
        self.wait_for_outcome(seconds)
        gevent.sleep(max(moment - time.perf_counter(), 0.0))

    def cancel(self) -> None:
        if self._send_request("cancel", {"reason": "changed my mind", "cancelled_by": _SENDER}):
            self._expect_abort("cancel")

    def change_address(self) -> None:
        street = f"{self.random.randrange(1, 10_000)} Second Street"
        self._send_request("address", {"new_address": _ADDRESS | {"street": street}, "updated_by": _SENDER})

    def approve(self) -> None:
        self._send_request("approve", {"reviewer": _SENDER})

    def reject(self) -> None:
        if self._send_request("reject", {"reviewer": _SENDER, "reason": "does not look right"}):
            self._expect_abort("reject")

    def start_twice_concurrently(self) -> bool:
        """Start the order while an identical start is in flight. Returns whether it was accepted.

        Either of the two requests may be the one that starts the order.
        """
        other = gevent.spawn(self.repeat_start, is_concurrent=True)
        is_accepted = self.start()
        other.join()
        return is_accepted

    def repeat_start(self, *, is_concurrent: bool = False) -> None:
        """Repeat the identical start, which must change nothing. A concurrent one may start the order."""
        name = "start again, same"
        response = self._send("start", self._body, name)
        if response is None or response.status not in (200, 409, 429):
            self._count(name, "error")
        elif response.is_ok and response.body.get("status") == "already_started":
            self._count(name, "already started")
        elif is_concurrent and response.is_ok:
            self._count(name, "started")
        elif response.status == 429:
            # A concurrent start may be rejected like any other, a repeated start of a known order may not.
            self._count(name, "rejected" if is_concurrent else "error")
        else:
            status = response.body.get("status", "")
            self._add_broken_promise(f"the repeated start returned HTTP status {response.status} {status}")

    def start_with_other_content(self) -> None:
        """Send a start with the same id and other content, which must be refused."""
        name = "start again, other"
        other = self._body | {"initial_address": _ADDRESS | {"street": "13 Other Street"}}
        response = self._send("start", other, name, expected=(409,))
        if response is not None and response.is_ok:
            self._add_broken_promise(
                f"another order under the same id returned HTTP status {response.status}"
            )
        else:
            self._count(name, "refused" if response is not None and response.status == 409 else "error")

    def record_final_state(self) -> None:
        """Request the status once, without waiting, and record the state after the drain."""
        is_known = self._check_status(Ending.NOT_ACCEPTED)
        if self.is_over:
            return
        # An order that runs within its limit may still be on time: its result is unknown.
        is_late = is_known and self._recorder.is_overdue(self.record)
        self._recorder.ended_without_outcome(self.record, Ending.UNFINISHED if is_late else Ending.UNKNOWN)

    def _check_status(self, ending_if_unknown: Ending) -> bool:
        """Request the status once, without waiting, and record an end. Returns whether the API gave a status.

        `ending_if_unknown` is the ending of an order that the API does not know.
        """
        response = self._status(0.0)
        if response is None or response.status >= 500 or response.status == 429:
            return False
        if response.is_ok:
            self._record_status(response)
        elif response.status == 404:
            if self.record.accepted is not None:
                self._add_broken_promise("its start was acknowledged, but the API does not know the order")
            self._recorder.ended_without_outcome(self.record, ending_if_unknown)
        else:
            # A refusal, for example of the API key: repeating the request would not help.
            self._recorder.ended_without_outcome(self.record, Ending.UNKNOWN)
        return True

    def _status(self, wait: float) -> ApiResponse | None:
        query = f"?wait={wait:.3f}" if wait > 0 else ""
        try:
            return self._api.get(f"/orders/{self.order_id}/status{query}")
        except NoResponse:
            return None

    def _record_status(self, response: ApiResponse) -> bool:
        """Record an outcome. Returns False if the response has no status, so that the caller pauses."""
        if not response.is_ok:
            return False
        status = response.body
        if self.record.accepted is None and status.get("created_at"):
            # The order was accepted without an acknowledgement. Its limit counts from acceptance.
            age = datetime.now(UTC) - datetime.fromisoformat(status["created_at"])
            self._recorder.accepted_before(self.record, age.total_seconds())
        if status.get("status", "running") == "running":
            return True
        completion_ms = status.get("completion_ms")
        if completion_ms is None:
            completion_ms = (time.perf_counter() - self._sent) * 1000
        completion_ms = float(completion_ms)
        self._recorder.finished(self.record, str(status["status"]), status.get("reason"), completion_ms)
        self._check_abort()
        return True

    def _expect_abort(self, request: str) -> None:
        """Note an accepted request after which the order must not complete, nor have completed before."""
        self._aborted_by = request
        self._check_abort()

    def _check_abort(self) -> None:
        if self._aborted_by and self.record.outcome == "completed":
            self._add_broken_promise(f"its {self._aborted_by} was accepted, but the order completed")

    def _send_request(self, request: str, body: Json) -> bool:
        """Send a request about the order, and repeat it with its key while there is no response.

        Returns whether it was accepted; too late is not an error.
        """
        names = _TOO_LATE_NAMES[request]
        options = {"expected": (200, 409), "names": names, "idempotency_key": uuid4().hex}
        response = self._send(_PATHS[request], body, request, **options)
        for _ in range(REQUEST_RETRIES):
            if response is not None and response.status < 500:
                break
            gevent.sleep(RETRY_SECONDS)
            response = self._send(_PATHS[request], body, request, **options)
        if response is None or response.status not in (200, 409):
            self._count(request, "error")
            return False
        self._count(request, "accepted" if response.is_ok else "too late")
        return response.is_ok

    def _send(self, path: str, body: Json, name: str, **options: Any) -> ApiResponse | None:
        try:
            return self._api.call("POST", f"/orders/{self.order_id}/{path}", body, name, **options)
        except NoResponse:
            return None

    def _count(self, request: str, result: str) -> None:
        self._recorder.requests[f"{request}: {result}"] += 1

    def _add_broken_promise(self, text: str) -> None:
        self._recorder.broken_promises.append(f"{self.order_id}: {text}")
