"""What the generator records about one order for each response of the API."""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import gevent
import pytest

from loadtest.generator import order_journey
from loadtest.generator.api_client import ApiClient, ApiResponse, NoResponse
from loadtest.generator.order_journey import OrderJourney
from loadtest.generator.recording import Ending, Recorder
from orchestrator.rest_client import Json

RUNNING = ApiResponse(200, {"status": "running"})
STARTED = ApiResponse(200, {"status": "started"})
COMPLETED = ApiResponse(200, {"status": "completed", "completion_ms": 900.0})
UNAVAILABLE = ApiResponse(503, {})
NOT_FOUND = ApiResponse(404, {})

# Importing Locust's events would patch this process for gevent.
NO_EVENTS: Any = SimpleNamespace(request=SimpleNamespace(fire=lambda **_: None))

Responses = ApiResponse | list[ApiResponse] | Callable[[], ApiResponse]


class StubApi(ApiClient):
    """Returns the given responses by the last segment of the path; of a list, one after the other."""

    def __init__(self, responses: dict[str, Responses]) -> None:
        self.responses = responses

    def call(self, method: str, path: str, body: Json | None, name: str, **_: Any) -> ApiResponse:
        response = self.responses[path.split("?")[0].rpartition("/")[2]]
        if isinstance(response, list):
            return response.pop(0) if len(response) > 1 else response[0]
        return response() if callable(response) else response


def start_order(slo_seconds: float = 15.0, **responses: Responses) -> tuple[OrderJourney, Recorder]:
    """Start an order. The start is acknowledged unless `start` is another response."""
    began = time.perf_counter()
    recorder = Recorder(NO_EVENTS, slo_seconds, began)
    record = recorder.sent(0, began)
    journey = OrderJourney(StubApi({"start": STARTED} | responses), recorder, "r", record, 1, slo_seconds)
    journey.start()
    return journey, recorder


def running_since(seconds_ago: float) -> Callable[[], ApiResponse]:
    def response() -> ApiResponse:
        at = datetime.now(UTC) - timedelta(seconds=seconds_ago)
        return ApiResponse(200, {"status": "running", "created_at": at.isoformat(timespec="milliseconds")})

    return response


@pytest.mark.parametrize(("execution", "sent"), [(None, {}), ("visible", {"execution": "visible"})])
def test_the_start_names_the_execution_of_the_run(execution: str | None, sent: Json) -> None:
    bodies = []

    class RecordingApi(StubApi):
        def call(self, method: str, path: str, body: Json | None, name: str, **_: Any) -> ApiResponse:
            bodies.append(body or {})
            return STARTED

    recorder = Recorder(NO_EVENTS, 15.0, 0.0)
    OrderJourney(RecordingApi({}), recorder, "r", recorder.sent(0, 0.0), 1, 15.0, execution).start()
    (body,) = bodies
    assert {name: value for name, value in body.items() if name == "execution"} == sent


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
def test_only_404_means_that_an_acknowledged_order_is_missing(
    status: int, ending: Ending, broken: int
) -> None:
    journey, recorder = start_order(status=ApiResponse(status, {}))
    journey.record_final_state()
    assert journey.record.ending == ending
    assert len(recorder.broken_promises) == broken


@pytest.mark.parametrize(("slo_seconds", "ending"), [(15.0, Ending.UNKNOWN), (0.0, Ending.UNFINISHED)])
def test_an_order_within_its_limit_is_not_unfinished(slo_seconds: float, ending: Ending) -> None:
    journey, _ = start_order(slo_seconds, status=RUNNING)
    journey.record_final_state()
    assert journey.record.ending == ending


@pytest.mark.parametrize(
    ("status", "ending"), [(NOT_FOUND, Ending.NOT_ACCEPTED), (COMPLETED, Ending.OUTCOME), (UNAVAILABLE, None)]
)
def test_an_order_stays_open_while_the_api_returns_no_status(
    status: ApiResponse, ending: Ending | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(order_journey, "LATE_RETRY_SECONDS", 0.01)
    api: dict[str, Responses] = {
        "start": [UNAVAILABLE],
        "status": [UNAVAILABLE, UNAVAILABLE, UNAVAILABLE, status],
    }
    seen: list[tuple[OrderJourney, Recorder]] = []
    starting = gevent.spawn(lambda: seen.append(start_order(0.0, **api)))
    starting.join(timeout=0.5 if ending is None else 60)
    assert starting.ready() is (ending is not None)
    starting.kill()
    if ending is not None:
        ((journey, _),) = seen
        assert journey.record.ending == ending


def test_the_limit_counts_from_acceptance_when_the_acknowledgement_was_lost() -> None:
    """The order was sent longer ago than the limit, and accepted later."""
    journey, recorder = start_order(0.3, start=[UNAVAILABLE], status=running_since(seconds_ago=0.1))
    assert journey.record.accepted == pytest.approx(time.perf_counter() - recorder._began - 0.1, abs=0.05)
    recorder.count_overdue()
    assert recorder.report(0, exhausted=True, drained=False).overdue == 0
    assert not recorder.is_overdue(journey.record)


def test_acceptance_is_never_before_sending() -> None:
    """The clock of the API is an hour behind."""
    journey, _ = start_order(0.0, start=[UNAVAILABLE], status=running_since(seconds_ago=3_600.0))
    assert journey.record.accepted == pytest.approx(
        journey.record.due + journey.record.send_delay_ms / 1000, abs=1e-6
    )


@pytest.mark.parametrize(
    ("response", "same", "other"),
    [
        (ApiResponse(401, {}), "error", "error"),
        (ApiResponse(429, {}), "error", "error"),
        (ApiResponse(503, {}), "error", "error"),
        (ApiResponse(409, {}), None, "refused"),
        (ApiResponse(200, {"status": "already_started"}), "already started", None),
        (ApiResponse(200, {"status": "started"}), None, None),
    ],
)
def test_only_a_wrong_success_or_conflict_of_a_second_start_breaks_a_promise(
    response: ApiResponse, same: str | None, other: str | None
) -> None:
    for send, name, result in (
        (OrderJourney.repeat_start, "start again, same", same),
        (OrderJourney.start_with_other_content, "start again, other", other),
    ):
        journey, recorder = start_order()
        journey._api = StubApi({"start": response})
        send(journey)
        assert dict(recorder.requests) == ({} if result is None else {f"{name}: {result}": 1})
        assert len(recorder.broken_promises) == (result is None)


@pytest.mark.parametrize("request_name", ["cancel", "reject"])
def test_a_request_that_is_accepted_after_the_order_completed_breaks_a_promise(request_name: str) -> None:
    journey, recorder = start_order(status=COMPLETED, **{request_name: ApiResponse(200, {})})
    journey.wait_for_outcome()
    assert recorder.broken_promises == []
    getattr(journey, request_name)()
    assert recorder.broken_promises == [f"r-0: its {request_name} was accepted, but the order completed"]


def test_a_request_without_a_response_is_repeated_with_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(order_journey, "RETRY_SECONDS", 0.0)
    keys: list[str] = []

    class LossyApi(StubApi):
        def call(self, method: str, path: str, body: Json | None, name: str, **options: Any) -> ApiResponse:
            keys.append(options["idempotency_key"])
            if len(keys) == 1:
                raise NoResponse
            return UNAVAILABLE if len(keys) == 2 else ApiResponse(200, {})

    journey, recorder = start_order()
    journey._api = LossyApi({})
    journey.cancel()
    assert dict(recorder.requests) == {"cancel: accepted": 1}
    assert (len(keys), len(set(keys))) == (3, 1)
