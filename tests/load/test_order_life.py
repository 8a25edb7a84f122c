"""What the generator concludes about one order from each answer that it may get."""

import time
from types import SimpleNamespace
from typing import Any

import pytest

from loadtest.api_client import Answer, ApiClient, Json
from loadtest.life import OrderLife
from loadtest.recording import Ending, Recorder

RUNNING = Answer(200, {"status": "running"})
STARTED = Answer(200, {"status": "started"})
COMPLETED = Answer(200, {"status": "completed", "completion_ms": 900.0})


# Locust's own would patch this whole process.
UNHEARD: Any = SimpleNamespace(request=SimpleNamespace(fire=lambda **_: None))


class ToldApi(ApiClient):
    """Gives the answers it was told to, by the last word of the path."""

    def __init__(self, answers: dict[str, Answer]) -> None:
        self.answers = answers

    def call(self, method: str, path: str, body: Json | None, name: str, **_: Any) -> Answer:
        return self.answers[path.split("?")[0].rpartition("/")[2]]


def order(slo_seconds: float = 15.0, **answers: Answer) -> tuple[OrderLife, Recorder]:
    """An order whose start is acknowledged, unless `start` is another answer."""
    began = time.perf_counter()
    recorder = Recorder(UNHEARD, slo_seconds, began)
    record = recorder.sent(0, began)
    api = ToldApi({"start": STARTED} | answers)
    life = OrderLife(api, recorder, "r", record, 1, slo_seconds)
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
    life.look_again()
    assert life.record.ending == ending
    assert len(recorder.broken_promises) == broken


@pytest.mark.parametrize(("slo_seconds", "ending"), [(15.0, Ending.UNKNOWN), (0.0, Ending.UNFINISHED)])
def test_an_order_that_still_has_time_is_not_unfinished(slo_seconds: float, ending: Ending) -> None:
    life, _ = order(slo_seconds, status=RUNNING)
    life.look_again()
    assert life.record.ending == ending


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
        (OrderLife.start_again_the_same, "start again, same", same),
        (OrderLife.start_again_otherwise, "start again, other", other),
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
