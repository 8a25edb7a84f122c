"""What the generator concludes about one order from each answer that it may get."""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import gevent
import pytest

from loadtest.generator import order_journey as life_module
from loadtest.generator.api_client import Answer, ApiClient
from loadtest.generator.order_journey import OrderJourney
from loadtest.generator.recording import Ending, Recorder
from orchestrator.rest_client import Json

RUNNING = Answer(200, {"status": "running"})
STARTED = Answer(200, {"status": "started"})
COMPLETED = Answer(200, {"status": "completed", "completion_ms": 900.0})


# Locust's own would patch this whole process.
UNHEARD: Any = SimpleNamespace(request=SimpleNamespace(fire=lambda **_: None))


Told = Answer | list[Answer] | Callable[[], Answer]


class ToldApi(ApiClient):
    """Gives the answers it was told to, by the last word of the path; of several, one after the other."""

    def __init__(self, answers: dict[str, Told]) -> None:
        self.answers = answers

    def call(self, method: str, path: str, body: Json | None, name: str, **_: Any) -> Answer:
        answer = self.answers[path.split("?")[0].rpartition("/")[2]]
        if isinstance(answer, list):
            return answer.pop(0) if len(answer) > 1 else answer[0]
        return answer() if callable(answer) else answer


def order(slo_seconds: float = 15.0, **answers: Told) -> tuple[OrderJourney, Recorder]:
    """An order whose start is acknowledged, unless `start` is another answer."""
    began = time.perf_counter()
    recorder = Recorder(UNHEARD, slo_seconds, began)
    record = recorder.sent(0, began)
    api = ToldApi({"start": STARTED} | answers)
    life = OrderJourney(api, recorder, "r", record, 1, slo_seconds)
    life.start()
    return life, recorder


@pytest.mark.parametrize(
    ("status", "ending", "broken"),
    [
        (404, Ending.NOT_ACCEPTED, 1),
        (401, Ending.UNKNOWN, 0),
        (429, Ending.UNKNOWN, 0),
        (422, Ending.UNKNOWN, 0),
        (503, Ending.UNKNOWN, 0),
    ],
)
def test_only_404_says_that_an_acknowledged_order_is_not_there(
    status: int, ending: Ending, broken: int
) -> None:
    life, recorder = order(status=Answer(status, {}))
    life.look_for_the_last_time()
    assert life.record.ending == ending
    assert len(recorder.broken_promises) == broken


@pytest.mark.parametrize(("slo_seconds", "ending"), [(15.0, Ending.UNKNOWN), (0.0, Ending.UNFINISHED)])
def test_an_order_that_still_has_time_is_not_unfinished(slo_seconds: float, ending: Ending) -> None:
    life, _ = order(slo_seconds, status=RUNNING)
    life.look_for_the_last_time()
    assert life.record.ending == ending


AWAY = Answer(503, {})
UNHEARD_OF = Answer(404, {})


def accepted(seconds_ago: float) -> Callable[[], Answer]:
    def tell() -> Answer:
        at = datetime.now(UTC) - timedelta(seconds=seconds_ago)
        return Answer(200, {"status": "running", "created_at": at.isoformat(timespec="milliseconds")})

    return tell


@pytest.mark.parametrize(
    ("status", "ending"), [(UNHEARD_OF, Ending.NOT_ACCEPTED), (COMPLETED, Ending.OUTCOME), (AWAY, None)]
)
def test_an_order_of_which_nobody_can_say_anything_stays_open(
    status: Answer, ending: Ending | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(life_module, "LATE_RETRY_SECONDS", 0.01)
    api: dict[str, Told] = {"start": [AWAY], "status": [AWAY, AWAY, AWAY, status]}
    seen: list[tuple[OrderJourney, Recorder]] = []
    living = gevent.spawn(lambda: seen.append(order(0.0, **api)))
    living.join(timeout=0.5)
    assert living.ready() is (ending is not None)
    living.kill()
    if ending is not None:
        ((life, _),) = seen
        assert life.record.ending == ending


def test_an_order_whose_acknowledgement_was_lost_counts_from_its_acceptance() -> None:
    """It was sent more than the limit ago, and accepted later."""
    life, recorder = order(0.3, start=[AWAY], status=accepted(seconds_ago=0.1))
    assert life.record.accepted == pytest.approx(time.perf_counter() - recorder._began - 0.1, abs=0.05)
    recorder.note_overdue()
    assert recorder.report(0, exhausted=True, drained=False).overdue == 0
    assert not recorder.is_overdue(life.record)


def test_no_order_was_accepted_before_it_was_sent() -> None:
    """By a clock of the API that is slow."""
    life, _ = order(0.0, start=[AWAY], status=accepted(seconds_ago=3_600.0))
    assert life.record.accepted == pytest.approx(life.record.due + life.record.lag_ms / 1000, abs=1e-6)


@pytest.mark.parametrize(
    ("answer", "same", "other"),
    [
        (Answer(401, {}), "error", "error"),
        (Answer(429, {}), "error", "error"),
        (Answer(503, {}), "error", "error"),
        (Answer(409, {}), None, "refused"),
        (Answer(200, {"status": "already_started"}), "already started", None),
        (Answer(200, {"status": "started"}), None, None),
    ],
)
def test_a_promise_about_a_second_start_is_broken_by_a_wrong_success_or_conflict_alone(
    answer: Answer, same: str | None, other: str | None
) -> None:
    for send, name, how in (
        (OrderJourney.start_again_the_same, "start again, same", same),
        (OrderJourney.start_again_otherwise, "start again, other", other),
    ):
        life, recorder = order()
        life._api = ToldApi({"start": answer})
        send(life)
        assert dict(recorder.requests) == ({} if how is None else {f"{name}: {how}": 1})
        assert len(recorder.broken_promises) == (how is None)


@pytest.mark.parametrize("what", ["cancel", "reject"])
def test_a_request_that_is_accepted_after_the_order_completed_breaks_a_promise(what: str) -> None:
    life, recorder = order(status=COMPLETED, **{what: Answer(200, {})})
    life.wait_for_outcome()
    assert recorder.broken_promises == []
    getattr(life, what)()
    assert recorder.broken_promises == [f"r-0: its {what} was accepted, and it completed"]
