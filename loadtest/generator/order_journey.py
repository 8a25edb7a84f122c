"""One order from its start to its outcome, as a customer, a reviewer and their impatience see it."""

import time
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import gevent

from loadtest.generator.api_client import Answer, ApiClient, NoAnswer
from loadtest.generator.recording import Ending, OrderRecord, Recorder
from orchestrator.rest_client import Json

WAIT_SECONDS = 10.0
RETRY_SECONDS = 0.2
LATE_RETRY_SECONDS = 1.0
"""How long to pause before asking again about an order that is late in any case."""

_ADDRESS = {"street": "1 Main Street", "city": "Springfield", "state": "IL", "zip": "62701"}
_BY = "loadtest"
_PATHS = {
    "cancel": "signals/cancel",
    "address": "signals/update-address",
    "approve": "signals/approve",
    "reject": "signals/reject",
}
_NAMES = {what: {409: f"{what}, too late"} for what in _PATHS}
_SHED = {429: "start, shed"}


class OrderJourney:
    """An order that a scenario starts, waits for, and asks things of."""

    def __init__(
        self,
        api: ApiClient,
        recorder: Recorder,
        run_id: str,
        record: OrderRecord,
        seed: int,
        slo_seconds: float,
    ) -> None:
        self.record = record
        self.order_id = f"{run_id}-{record.number}"
        self.random = Random(f"{seed}/{record.number}")
        self._api = api
        self._recorder = recorder
        self._slo_seconds = slo_seconds
        self._sent = time.perf_counter()
        self._due_at = datetime.now(UTC) - timedelta(milliseconds=record.lag_ms)
        self._body: Json = {"run_id": run_id}
        # Accepted requests after which the order must not complete.
        self._turned_back: str | None = None

    @property
    def is_over(self) -> bool:
        return self.record.ending is not None

    def start(self, review: str = "auto") -> bool:
        """Starts the order, and repeats the same start while no answer comes, as a careful client does.

        Returns whether it was accepted. One that was shed is recorded so; one of which the API knows nothing
        when the limit is over is recorded as late. While nobody can say, it stays open, and is asked about
        again and again, until the drain ends it.
        """
        self._body |= {
            "initial_address": _ADDRESS,
            "review": review,
            "requested_at": self._due_at.isoformat(timespec="milliseconds"),
        }
        give_up = self._sent + self._slo_seconds
        while True:
            answer = self._try(
                f"/orders/{self.order_id}/start", self._body, "start", expected=(200, 429), names=_SHED
            )
            if answer is not None and answer.is_ok:
                self._recorder.accepted(self.record, self._sent)
                return True
            if (answer is not None and answer.status < 500) or time.perf_counter() >= give_up:
                break
            self.record.retries += 1
            gevent.sleep(RETRY_SECONDS)
        otherwise = Ending.SHED if answer is not None and answer.status == 429 else Ending.NOT_ACCEPTED
        if otherwise is Ending.NOT_ACCEPTED or self.record.retries:
            # The last answers may have been lost, and the order accepted all the same.
            while not self._learn(otherwise):
                gevent.sleep(LATE_RETRY_SECONDS)
            return not self.is_over
        self._recorder.gave_up(self.record, otherwise)
        return False

    def wait_for_outcome(self, seconds: float | None = None) -> bool:
        """Waits until the outcome is known, or for so long. Returns whether it is known."""
        give_up = None if seconds is None else time.perf_counter() + seconds
        while not self.is_over:
            left = WAIT_SECONDS if give_up is None else min(WAIT_SECONDS, give_up - time.perf_counter())
            if left <= 0:
                return False
            asked = time.perf_counter()
            answer = self._status(left)
            was_useful = answer is not None and self._take(answer)
            if not self.is_over and (not was_useful or time.perf_counter() - asked < RETRY_SECONDS):
                # An API that is away, or about to stop, answers at once: no tight loop.
                gevent.sleep(min(RETRY_SECONDS, left))
        return True

    def some_moment(self) -> float:
        """Seconds after acceptance: uniformly random within what orders of this run live by now."""
        return self.random.uniform(0, self._recorder.lifetimes.span_seconds())

    def wait_then(self, seconds: float) -> None:
        """Lets so much of the order's life go by; if it ends sooner, the outcome is recorded then."""
        moment = time.perf_counter() + seconds
        self.wait_for_outcome(seconds)
        gevent.sleep(max(moment - time.perf_counter(), 0.0))

    def cancel(self) -> None:
        if self._ask("cancel", {"reason": "changed my mind", "cancelled_by": _BY}):
            self._turn_back("cancel")

    def change_address(self) -> None:
        street = f"{self.random.randrange(1, 10_000)} Second Street"
        self._ask("address", {"new_address": _ADDRESS | {"street": street}, "updated_by": _BY})

    def approve(self) -> None:
        self._ask("approve", {"reviewer": _BY})

    def reject(self) -> None:
        if self._ask("reject", {"reviewer": _BY, "reason": "does not look right"}):
            self._turn_back("reject")

    def start_doubled(self) -> bool:
        """Starts the order while a second, equal start is on its way, as an impatient client does.

        Returns whether it was acknowledged. Either of the two may be the one that starts it.
        """
        beside = gevent.spawn(self.start_again_the_same, is_beside=True)
        acknowledged = self.start()
        beside.join()
        return acknowledged

    def start_again_the_same(self, *, is_beside: bool = False) -> None:
        """Sends the very same start once more, which must change nothing; `is_beside` the first one, it may
        be the one that is carried out."""
        answer = self._try(f"/orders/{self.order_id}/start", self._body, "start again, same")
        if answer is None or answer.status not in (200, 409, 429):
            self._count("start again, same", "error")
        elif answer.is_ok and answer.body.get("status") == "already_started":
            self._count("start again, same", "already started")
        elif is_beside and answer.is_ok:
            self._count("start again, same", "started")
        elif answer.status == 429:
            # Beside the first one it is turned away like any start; later it should have been known.
            self._count("start again, same", "shed" if is_beside else "error")
        else:
            self._break(f"the same start again was answered {answer.status} {answer.body.get('status', '')}")

    def start_again_otherwise(self) -> None:
        """Sends another order under the same id, which must be refused."""
        other = self._body | {"initial_address": _ADDRESS | {"street": "13 Other Street"}}
        name = "start again, other"
        answer = self._try(f"/orders/{self.order_id}/start", other, name, expected=(409,))
        if answer is not None and answer.is_ok:
            self._break(f"another order under the same id was answered {answer.status}")
        else:
            self._count(name, "refused" if answer is not None and answer.status == 409 else "error")

    def look_for_the_last_time(self) -> None:
        """Asks once, without waiting, and records what is known of an order whose drain is over."""
        is_told = self._learn(Ending.NOT_ACCEPTED)
        if self.is_over:
            return
        # One that runs and still has time left may keep its limit: nobody knows.
        is_late = is_told and self._recorder.is_overdue(self.record)
        self._recorder.gave_up(self.record, Ending.UNFINISHED if is_late else Ending.UNKNOWN)

    def _learn(self, otherwise: Ending) -> bool:
        """Asks once, without waiting, what became of the order, and records its end if it has one;
        `otherwise` when the API knows no such order. Returns whether the answer says anything of it."""
        answer = self._status(0.0)
        if answer is None or answer.status >= 500 or answer.status == 429:
            return False
        if answer.is_ok:
            self._take(answer)
        elif answer.status == 404:
            if self.record.accepted is not None:
                self._break("its start was acknowledged, and the API knows no such order")
            self._recorder.gave_up(self.record, otherwise)
        else:
            # A refusal, which says nothing of the order, and will not with the next question.
            self._recorder.gave_up(self.record, Ending.UNKNOWN)
        return True

    def _status(self, wait: float) -> Answer | None:
        query = f"?wait={wait:.3f}" if wait > 0 else ""
        try:
            return self._api.get(f"/orders/{self.order_id}/status{query}", "status")
        except NoAnswer:
            return None

    def _take(self, answer: Answer) -> bool:
        """Records an outcome. Returns False when the answer was of no use, so that asking should pause."""
        if not answer.is_ok:
            return False
        told = answer.body
        if self.record.accepted is None and told.get("created_at"):
            # Nobody has acknowledged its start, and its time counts from acceptance all the same.
            age = datetime.now(UTC) - datetime.fromisoformat(told["created_at"])
            self._recorder.found(self.record, age.total_seconds())
        if told.get("status", "running") == "running":
            return True
        completion_ms = told.get("completion_ms")
        if completion_ms is None:
            completion_ms = (time.perf_counter() - self._sent) * 1000
        self._recorder.finished(self.record, str(told["status"]), told.get("reason"), float(completion_ms))
        if self._turned_back is None:
            self._recorder.lifetimes.add_finished(float(completion_ms) / 1000)
        self._check_turned_back()
        return True

    def _turn_back(self, what: str) -> None:
        """The request was accepted, so that the order must not complete; nor may it have completed before."""
        self._turned_back = what
        self._recorder.lifetimes.add_censored(time.perf_counter() - self._sent)
        self._check_turned_back()

    def _check_turned_back(self) -> None:
        if self._turned_back and self.record.outcome == "completed":
            self._break(f"its {self._turned_back} was accepted, and it completed")

    def _ask(self, what: str, body: dict[str, Any]) -> bool:
        """Makes a request about the order. Returns whether it was accepted; too late is no error."""
        path = f"/orders/{self.order_id}/{_PATHS[what]}"
        answer = self._try(path, body, what, expected=(200, 409), names=_NAMES[what])
        if answer is None or answer.status not in (200, 409):
            self._count(what, "error")
            return False
        self._count(what, "accepted" if answer.is_ok else "too late")
        return answer.is_ok

    def _try(self, path: str, body: Json, name: str, **expectations: Any) -> Answer | None:
        try:
            return self._api.post(path, body, name, **expectations)
        except NoAnswer:
            return None

    def _count(self, what: str, how: str) -> None:
        self._recorder.requests[f"{what}: {how}"] += 1

    def _break(self, what: str) -> None:
        self._recorder.broken_promises.append(f"{self.order_id}: {what}")
